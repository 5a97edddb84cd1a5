"""Azure Service Bus on one machine: AMQP 1.0 in front of queues in SQLite.

`amqp`      the server's side of the AMQP 1.0 protocol; it does not depend on Service Bus
`broker`    the queues with their rules and their database; it does not depend on AMQP
others      connect `amqp` and `broker`: namespace, tokens, management over AMQP and over HTTP

The only public interface is `python -m emulator.servicebus`. Everything else is internal.
"""
