"""Compare Loosely with other ways to serve a model over HTTP (`./dev bench peers`).

- `job`: the two tasks that all systems serve. `servers/` has one server for each peer.
- `environments`: the Python environments of the peers.
- `systems`: how to start each peer and Loosely, and which processes belong to them.
- `client`: the HTTP client. `measure`: the measurements of a running system.
- `results`: the measured values as JSON, and their medians. `report`, `charts`: the document.
- `run`: the command.
"""
