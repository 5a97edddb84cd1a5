"""The client: submit jobs to a gateway over HTTP, and wait for the results.

Import the public names from `loosely`: `Client`, `AsyncClient`, the errors and the resources.

The modules, in the order in which a call passes through them:

- `clients`: `Client` (blocking) and `AsyncClient`. Both have the methods of `ClientOperations`.
- `operations`: each operation as a coroutine. An operation decides which requests to send, when to
  repeat them and when to give up. It leaves all input and output to the transport.
- `requests`, `responses`: build an HTTP request; read an HTTP response.
- `retry`: decide whether to repeat a request, and after how many seconds.
- `transport`: send requests with httpx, either blocking or in an event loop.
- `resources`, `errors`: the jobs, models and results that callers get, and the exceptions.
- `operators`: the dead-letter operations for the command line.
"""
