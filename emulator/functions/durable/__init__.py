"""A Durable Task engine on SQLite, and the wire of the azure-functions-durable 1.x SDK."""
