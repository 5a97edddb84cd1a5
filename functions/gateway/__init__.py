"""The gateway: a synchronous REST API over asynchronous queues.

The path of a job through the packages: `http` authenticates the caller and calls `submission`,
which parses the HTTP request and creates the job. `jobs` runs the job's orchestration and waits for
its outcome. `queues` sends the job to a worker, and `http` receives the worker's reply. `services`
builds the components.
"""
