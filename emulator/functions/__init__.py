"""A Functions host for one machine: it runs a Function App folder (Python, v2 programming model).

Start it with `python -m emulator.functions` or `local-functions`; nothing else here is public. The
folder `app/` runs in a process of its own with the user's code, `durable/` is the Durable Task
extension, and the other modules are the host.
"""
