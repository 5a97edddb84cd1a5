"""The client: submit jobs to a gateway over HTTP, and wait for the results.

Import the public names from `loosely`: `Client`, `AsyncClient`, the errors and the resources.

The modules, from the caller to the network:

- `clients`: `Client` (blocking) and `AsyncClient`. Both have the methods of `ClientOperations`.
- `operations`: the code of each operation, as a coroutine that chooses the requests to send,
  repeats them and gives up. The coroutines do no input or output themselves.
- `requests`, `responses`: build an HTTP request; read an HTTP response.
- `retry`: decide whether to repeat a request, and after how long.
- `transport`: send requests with httpx, blocking or in an event loop.
- `resources`, `errors`: the jobs, models and results that callers get, and the exceptions.
- `operators`: the dead-letter operations for the command line.
"""
