"""The routes of /v1. Each module defines the routes of one resource, and has a `router`."""
