"""What can go wrong between an AMQP peer and us, and how much of the connection it ends.

AmqpError                     carries the condition that the peer is told
├── ConnectionFault           closes the connection
│   ├── DecodeError           the bytes are not AMQP
│   └── FramingError          the frame is impossible
├── SessionFault              ends the session
├── LinkFault                 detaches the link, or refuses to attach it
└── MessageFault              refuses one message or one management request
WebSocketError                the peer does not follow RFC 6455; carries the code to close with

What the broker refuses has a tree of its own, in ``broker/errors.py``; what stops the program at
its start is in ``emulator.program``.
"""


class AmqpError(Exception):
    """A fault with the AMQP condition that names it to the peer."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class ConnectionFault(AmqpError):
    """The whole connection cannot go on."""


class DecodeError(ConnectionFault):
    """The bytes do not follow the type system or a performative's definition."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:decode-error", description)


class FramingError(ConnectionFault):
    """A frame is too large, too small, or on a channel that cannot be."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:connection:framing-error", description)


class SessionFault(AmqpError):
    """The session cannot go on; others of the connection can."""


class LinkFault(AmqpError):
    """The link cannot be attached, or cannot go on."""


class MessageFault(AmqpError):
    """One message or one request is refused; the link goes on."""

    def __init__(self, condition: str, description: str, status_code: int = 400) -> None:
        super().__init__(condition, description)
        self.status_code = status_code


class WebSocketError(Exception):
    """The peer does not follow RFC 6455."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closing a WebSocket with {code}")
        self.code = code
