"""Errors of the AMQP protocol, grouped by their effect on a connection, session, link or message.

AmqpError                     carries the AMQP condition that the peer receives
├── ConnectionFault           closes the connection
│   ├── DecodeError           the bytes are not valid AMQP
│   └── FramingError          the size, type or channel of a frame is invalid
├── SessionFault              ends the session
├── LinkFault                 detaches the link, or refuses to attach it
└── MessageFault              rejects one message or one management request
WebSocketError                the peer violates RFC 6455; carries the close code

`broker/errors.py` has the errors of the queues. `emulator/program.py` has the errors that can occur
at the start of the program.
"""


class AmqpError(Exception):
    """An error that the peer receives as an AMQP condition with a description."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class ConnectionFault(AmqpError):
    """An error that closes the connection."""


class DecodeError(ConnectionFault):
    """The bytes violate the type system or the definition of a performative."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:decode-error", description)


class FramingError(ConnectionFault):
    """The size, type or channel of a frame is invalid."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:connection:framing-error", description)


class SessionFault(AmqpError):
    """An error that ends the session and leaves the connection's other sessions open."""


class LinkFault(AmqpError):
    """An error that refuses to attach a link, or detaches it."""


class MessageFault(AmqpError):
    """An error that rejects one message or one management request and leaves the link attached."""

    def __init__(self, condition: str, description: str, status_code: int = 400) -> None:
        super().__init__(condition, description)
        self.status_code = status_code


class WebSocketError(Exception):
    """The peer violates RFC 6455. `code` is the status code of the close frame."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"the peer violated the WebSocket protocol: closing with the status code {code}"
        )
        self.code = code
