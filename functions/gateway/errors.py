"""What can go wrong behind the API; `problems` turns it into HTTP.

GatewayError
├── SettingError        a setting is missing or wrong: the start stops
├── Unavailable         a service behind the gateway did not answer; worth another try
│   └── UnknownQueue    the namespace has no such queue, or keeps it from us
├── UnknownInstance     no orchestration has this id
├── FinalInstance       the orchestration has ended: nothing can reach it any more
├── UnknownLetter       no dead letter has this id
├── NotRedrivable       the dead letter cannot be sent again
├── MissingPayload      the blob is not there, or no longer
├── UnreadableImage     the header of a picture cannot be read
├── WebhookUndelivered  a receiver did not answer, or must not be called
└── TokenError
    ├── InvalidToken    not made by us for this job and this time
    └── ExpiredToken    made by us, its time is over
"""


class GatewayError(Exception):
    """Base of all."""


class SettingError(GatewayError):
    """A setting is missing or wrong; the text names it."""

    def __init__(self, variable: str, expected: str) -> None:
        super().__init__(f"{variable}: {expected}")
        self.variable = variable


class Unavailable(GatewayError):
    """A service did not answer, or not as it should; `service` is durable, queue or blobs."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service}: {reason}")
        self.service = service


class UnknownQueue(Unavailable):
    """The namespace has no such queue, or keeps it from us; an operator may change that."""


class UnknownInstance(GatewayError):
    """No orchestration has this id."""


class FinalInstance(GatewayError):
    """The orchestration has ended."""


class UnknownLetter(GatewayError):
    """No dead letter has this id."""


class NotRedrivable(GatewayError):
    """The dead letter cannot be sent again, or not now; the text says why."""


class MissingPayload(GatewayError):
    """The blob is not there, or no longer."""


class UnreadableImage(GatewayError):
    """The header of a picture cannot be read; the text says what is wrong."""


class WebhookUndelivered(GatewayError):
    """A receiver gave no answer; `reason` is a class of failure, fit for the delivery log."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook: {reason}")
        self.reason = reason


class TokenError(GatewayError):
    """A reply token is no good."""


class InvalidToken(TokenError):
    """Not made by us for this job and this time."""


class ExpiredToken(TokenError):
    """Made by us for this job, but its time is over."""
