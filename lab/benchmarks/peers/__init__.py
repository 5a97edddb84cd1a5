"""Compare Loosely with its peers: other ways to serve a model over HTTP (`./dev bench peers`).

- `job`: the two tasks that Loosely and all peers serve.
- `servers`: one server for each peer.
- `environments`: the Python environments of the peers.
- `systems`: starts the peers and Loosely, and finds their processes.
- `client`: the HTTP client that sends the requests.
- `measure`: the measurements of a running system.
- `results`: the measured values as JSON, and their medians.
- `report` and `charts`: the document with the results, and its charts.
- `run`: the command.
"""
