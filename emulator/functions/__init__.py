"""A local replacement for the Azure Functions host.

The host runs one Function App (Python, v2 programming model). Start it with `python -m
emulator.functions` or `local-functions`. The Python modules of this package are not public.

The code in `app/` runs in the app process, together with the user's code. `durable/` is the Durable
Task extension. The other modules are the host.
"""
