"""The submission of jobs: parse and validate a request, and create its jobs exactly once."""
