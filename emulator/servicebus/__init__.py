"""The emulator of Azure Service Bus: queues and topics in a SQLite database, served over AMQP.

`amqp`      the server's side of the AMQP 1.0 protocol, independent of `broker`
`broker`    the queues and topics, their rules and their database, independent of `amqp`

The other modules connect `amqp` and `broker`, verify access tokens, and serve management requests.
The only public interface is `python -m emulator.servicebus`. Everything else is internal.
"""
