"""AMQP 1.0 over asyncio: the server's half of the protocol that Service Bus speaks."""
