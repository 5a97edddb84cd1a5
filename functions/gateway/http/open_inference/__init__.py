"""The Open Inference Protocol, which the gateway serves under /v2.

`routes.router` contains all routes of the protocol.
"""
