"""Errors of the AMQP protocol, grouped by their effect on a connection, session, link or message.

AmqpError                     carries the AMQP condition that the peer receives
├── ConnectionFault           closes the connection
│   ├── DecodeError           the bytes are not valid AMQP
│   └── FramingError          the size, type or channel of a frame is invalid
├── SessionFault              ends the session
├── LinkFault                 refuses or detaches the link
└── MessageFault              rejects one message or one management request
WebSocketError                the peer violated RFC 6455; carries the status code of the close frame

`broker/errors.py` defines the errors of the queues. `emulator/program.py` defines the errors that
stop the program.
"""


class AmqpError(Exception):
    """An error that the peer receives as an AMQP condition and a description."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class ConnectionFault(AmqpError):
    """An error that closes the connection."""


class DecodeError(ConnectionFault):
    """The received bytes are not a valid AMQP value or not a valid performative."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:decode-error", description)


class FramingError(ConnectionFault):
    """The size, type or channel of a frame is invalid."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:connection:framing-error", description)


class SessionFault(AmqpError):
    """An error that ends one session. The other sessions of the connection stay open."""


class LinkFault(AmqpError):
    """An error that refuses a new link or detaches an attached link."""


class MessageFault(AmqpError):
    """An error that rejects one message or one management request. The link stays attached."""

    def __init__(self, condition: str, description: str, status_code: int = 400) -> None:
        super().__init__(condition, description)
        self.status_code = status_code


class WebSocketError(Exception):
    """The peer violated the WebSocket protocol (RFC 6455).

    `code` is the status code of the close frame that the server sends.
    """

    def __init__(self, code: int) -> None:
        super().__init__(
            f"the peer violated the WebSocket protocol: closing with the status code {code}"
        )
        self.code = code
