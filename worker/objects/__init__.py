"""The object store of payloads and weights: the port, and an adapter for each kind of store."""
