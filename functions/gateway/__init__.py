"""The gateway: a synchronous REST API over asynchronous queues.

One job, in order: `http` authenticates a request and calls `submission`, which parses it and
creates the job; `jobs` runs its orchestration and waits for its outcome; `queues` sends its request
to a worker, whose reply comes back through `http`. `services` builds the parts.
"""
