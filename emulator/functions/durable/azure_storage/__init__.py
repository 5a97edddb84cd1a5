"""A durable engine with the Azure Storage provider's order of things, on one shared SQLite file."""
