"""The errors of the gateway. `http.problems` has those that callers see.

GatewayError
├── SettingError        a setting is missing or wrong: the start stops
├── Unavailable         a service behind the gateway did not answer; try again
│   └── UnknownQueue    the queue does not exist, or access to it is denied
├── UnknownInstance     no orchestration has this id
├── FinalInstance       the orchestration has ended and takes no events
├── IllegalStatusChange a job cannot change from this status to that one
├── UnknownLetter       no dead letter has this id
├── NotRedrivable       the dead letter cannot be redriven
├── MissingPayload      the blob does not exist
├── UnreadableImage     the header of a picture cannot be read
├── WebhookUndelivered  the receiver did not answer, or must not be called
└── TokenError
    ├── InvalidToken    the token is not for this job and this time
    └── ExpiredToken    the token is for this job, but its time is over
"""


class GatewayError(Exception):
    """Base of all errors of the gateway."""


class InvalidSetting(GatewayError):
    """A setting is missing or wrong; the text names it."""

    def __init__(self, variable: str, expected: str) -> None:
        super().__init__(f"{variable}: {expected}")
        self.variable = variable


class Unavailable(GatewayError):
    """A service did not answer, or not correctly; `service` is durable, queue or blobs."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service}: {reason}")
        self.service = service


class UnknownQueue(Unavailable):
    """The queue does not exist, or access to it is denied."""


class UnknownInstance(GatewayError):
    """No orchestration has this id."""


class FinalInstance(GatewayError):
    """The orchestration has ended."""


class IllegalStatusChange(GatewayError):
    """A job was to change from one status to another, which the table does not allow."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a job cannot change from {before} to {after}")
        self.before = before
        self.after = after


class UnknownLetter(GatewayError):
    """No dead letter has this id."""


class NotRedrivable(GatewayError):
    """The dead letter cannot be redriven, or not now; the text says why."""


class MissingPayload(GatewayError):
    """The blob does not exist."""


class UnreadableImage(GatewayError):
    """The header of a picture cannot be read; the text says what is wrong."""


class WebhookUndelivered(GatewayError):
    """A webhook was not delivered; `reason` is a class of failure for the delivery log."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook: {reason}")
        self.reason = reason


class TokenError(GatewayError):
    """A reply token is not valid."""


class InvalidToken(TokenError):
    """The token is not for this job and this time."""


class ExpiredToken(TokenError):
    """The token is for this job, but its time is over."""
