"""A Function App and a worker that use Azure's SDKs directly, without Loosely.

They run on the same emulators as Loosely. The comparison with them shows which part of the time of
a job Loosely's own code takes. They do only what is necessary for a job: send the message, receive
it, run the model, send the reply, store the outcome as an orchestration, and respond.

- `function_app.py` and `host.json` are the Function App.
- `worker.py` is the worker.
- `service_bus.json` lists the queue, in the format of `Config.json` of Microsoft's emulator.

The environment variable `PEER_SERVICE_BUS` is the connection string of the Service Bus.
"""
