"""The submission of jobs: parse and validate a request, create its jobs, once for each key."""
