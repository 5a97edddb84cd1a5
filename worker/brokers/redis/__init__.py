"""Redis Streams as the broker of the worker."""
