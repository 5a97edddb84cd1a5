"""The client: submit jobs to a gateway over HTTP, and wait for the results.

Import the public names from `loosely`. A call passes through `clients` (blocking or asynchronous),
`operations` (each operation once, as a coroutine), `requests` and `responses`, `retry` and
`transport` (httpx). `streams` has the events of jobs, from the parser in `sse`. Callers get the
`resources` and the `errors`.
"""
