"""The client: submit jobs to a gateway over HTTP, and wait for the results.

Import the public names from `loosely`. A call passes through `clients` (blocking or asynchronous),
`operations` (each operation once, as a coroutine) and `sending` with `retry`, `requests`,
`responses` and `transport` (httpx). `mapping` runs many inputs, `batches` has the operations on
batches, and `tenants` those on tenants. `streams` has the events of jobs, from the parser in `sse`.
Callers get the `resources` and the `errors`.
"""
