"""A Functions host for one machine: runs an unmodified Function App folder (Python, v2 model)."""
