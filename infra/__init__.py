"""The deployment to Azure, and the programs that generate, check and package its files."""
