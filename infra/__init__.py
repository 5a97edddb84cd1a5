"""The deployment to Azure, and what keeps its files in step with the code."""
