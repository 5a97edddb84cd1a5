"""The REST API. `app.create_app` creates the FastAPI app.

`routes` contains one module for each kind of resource under /v1. `open_inference` serves the Open
Inference Protocol under /v2. `openapi` creates the OpenAPI document.
"""
