"""The routes of /v1, one module a resource. Each module has a `router`."""
