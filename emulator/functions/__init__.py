"""A Functions host for one machine. It runs a Function App (Python, v2 programming model).

Start the host with `python -m emulator.functions` or `local-functions`; the Python modules of this
package are not public. The code in `app/` runs in the app process, together with the user's code.
`durable/` is the Durable Task extension. The other modules are the host.
"""
