"""The routes under /v1. Each module has a `router` with the routes of one kind of resource."""
