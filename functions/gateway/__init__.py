"""The gateway: a synchronous REST API over asynchronous queues.

The path of a job: `http` authenticates the caller and reads the request. `submission` parses it and
creates the job. `jobs` runs the job's orchestration and waits for its outcome. `queues` sends the
job to a worker, and `http` receives the worker's reply. `services` builds the components. All stand
on the modules beside the folders, such as `problems` and `json_text`. `pyproject.toml` has the
layers, and import-linter checks them.
"""
