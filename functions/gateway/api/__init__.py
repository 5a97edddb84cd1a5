"""The HTTP surface: one module a resource, `app` puts them together."""
