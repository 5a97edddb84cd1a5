"""/v2, which offers the models' jobs by the Open Inference Protocol.

`routes.router` is the public entry.
"""
