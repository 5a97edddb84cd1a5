"""The gateway's internal errors. `problems` defines the errors that callers see.

GatewayError
├── Unavailable         a service that the gateway needs failed or did not respond; try again
│   ├── UnknownQueue    the queue does not exist, or the gateway has no access to the queue
│   └── NoAnswer        the service cannot be reached, or did not respond in time
├── UnknownInstance     no orchestration has this id
├── FinalInstance       the orchestration has ended and accepts no events
├── UnknownLetter       no dead letter has this id
├── NotRedrivable       the dead letter cannot be redriven
├── MissingPayload      the blob of a payload does not exist
├── UnreadableImage     the header of a picture cannot be read
│   └── TruncatedImage  the bytes end before the size of the picture
├── WebhookUndelivered  a webhook could not be sent, or its URL is forbidden
├── InvalidToken        the token was not issued for this job and expiry time
└── ExpiredToken        the token was issued for this job, but has expired
"""


class GatewayError(Exception):
    """Base class of the gateway's internal errors."""


class Unavailable(GatewayError):
    """A service failed or did not respond. `service` is `durable`, `queue` or `blobs`."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service}: {reason}")
        self.service = service


class UnknownQueue(Unavailable):
    """The queue does not exist, or the gateway has no access to the queue."""


class NoAnswer(Unavailable):
    """The service cannot be reached, or did not respond in time. Other errors are answers."""


class UnknownInstance(GatewayError):
    """No orchestration has this id."""


class FinalInstance(GatewayError):
    """The orchestration has ended and accepts no more events."""


class UnknownLetter(GatewayError):
    """No dead letter has this id."""


class NotRedrivable(GatewayError):
    """The dead letter cannot be redriven. The error message gives the reason."""


class MissingPayload(GatewayError):
    """The blob of a payload does not exist."""


class UnreadableImage(GatewayError):
    """The header of a picture cannot be read. The error message says what is wrong."""


class TruncatedImage(UnreadableImage):
    """The bytes end before the width and height of the picture."""


class WebhookUndelivered(GatewayError):
    """A webhook was not delivered. `reason` is a short code for the delivery log."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook: {reason}")
        self.reason = reason


class InvalidToken(GatewayError):
    """The reply token was not issued for this job and this expiry time."""


class ExpiredToken(GatewayError):
    """The reply token was issued for this job, but has expired."""
