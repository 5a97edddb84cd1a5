"""The client: submit jobs to a gateway over HTTP and wait for their results.

Import the public names from `loosely`: `Client`, `AsyncClient`, the errors and the resources.

How it fits together, from the caller to the network:

- `clients`: `Client` (blocking) and `AsyncClient`. Both have the methods of `ClientOperations`.
- `operations`: each operation once, as a coroutine: which requests to send, when to repeat them
  and when to give up. It does no input or output itself.
- `requests`, `responses`: build an HTTP request; read an HTTP response.
- `retry`: decide whether to repeat a request, and after how long.
- `transport`: send requests with httpx, blocking or in an event loop.
- `resources`, `errors`: what callers get: jobs, models, results; exceptions.
- `operators`: the dead-letter operations for the command line.
"""
