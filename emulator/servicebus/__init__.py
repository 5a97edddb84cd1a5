"""The emulator of Azure Service Bus: queues in a SQLite database, served over AMQP 1.0.

`amqp`      the server's side of the AMQP 1.0 protocol; this package does not depend on `broker`
`broker`    the queues, their rules and their database; this package does not depend on `amqp`

The other modules connect `amqp` and `broker`, verify tokens, and serve the management operations.
The only public interface is `python -m emulator.servicebus`. Everything else is internal.
"""
