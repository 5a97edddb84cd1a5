"""Receive messages from a broker, hold and settle them, and send replies.

`port` says what the worker needs of a broker. Each adapter fulfils it for one broker: `servicebus`,
`rabbitmq` and `redis`. `receiver` and `replies` use the port, and know no broker.
"""
