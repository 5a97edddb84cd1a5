"""The REST API: app, authentication, requests, responses; `routes` has one module a resource.

`app.create_app` is the public entry. `open_inference` serves the Open Inference Protocol under /v2,
`openapi` makes the OpenAPI document.
"""
