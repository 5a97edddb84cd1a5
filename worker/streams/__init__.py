"""The streams of jobs: the events that the models emit, written to a log for each job.

`writer` gathers the events of all running jobs, and writes them in threads of its own. `store` is
the port to what keeps the logs: `blobs` (append blobs) or `redis_streams` (Redis).
"""
