"""The submission of jobs.

`parse` validates a request. `create` creates its jobs. `idempotency` ensures that a repeated
request does not create the jobs again.
"""
