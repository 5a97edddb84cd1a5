"""The errors of the broker. Each error has an AMQP condition and an HTTP status code.

BrokerError
├── EntityNotFound            the queue, topic, subscription, rule or access policy does not exist
├── EntityAlreadyExists       a queue, topic, subscription or rule has this name already
├── EntityDisabled            the status of the queue, topic or subscription forbids the operation
├── MessageLockLost           the lock does not exist, for example because it expired
├── MessageNotFound           no deferred or scheduled message has the sequence number
├── SessionLockLost           the receiver has no lock on the session, or the lock expired
├── SessionAlreadyLocked      another receiver has locked the session
├── MessageSizeExceeded       the message exceeds the queue's limit
├── QuotaExceeded             the queue is full
├── ArgumentError             a value is outside Service Bus's limits
├── NotAllowed                the queue does not support this operation
├── MessageStoreError         the database could not be read or written
├── SchemaError               the database cannot be opened, or is in use
└── BrokerClosed              the broker has been closed
"""

from typing import ClassVar


class BrokerError(Exception):
    """An error that the broker reports to a client.

    An AMQP client receives `condition`. A client of the management API receives `status_code`.
    """

    condition: ClassVar[str] = "amqp:internal-error"
    status_code: ClassVar[int] = 500


class EntityNotFound(BrokerError):
    """The queue, topic, subscription, rule or shared access policy does not exist.

    The error's text is the same as in Azure, because the JavaScript client recognizes this error by
    its text.
    """

    condition = "amqp:not-found"
    status_code = 404

    def __init__(self, address: str) -> None:
        super().__init__(f"The messaging entity '{address[:300]}' could not be found.")


class EntityAlreadyExists(BrokerError):
    """A queue, topic, subscription or rule with this name already exists."""

    condition = "com.microsoft:entity-already-exists"
    status_code = 409


class EntityDisabled(BrokerError):
    """The status of the queue, topic or subscription forbids the operation.

    The texts of this error are the same as in Azure.
    """

    condition = "com.microsoft:entity-disabled"
    status_code = 403

    def __init__(self, address: str, operations: str = "", kind: str = "queue") -> None:
        """Create the error; `operations` is `Send`, `Receive` or empty for both."""
        if operations:
            entity = f"localhost:{kind.title()}:{address[:300]}"
            reason = f"is currently disabled for {operations} operations."
        else:
            entity = f"sb://localhost/{address[:300]}"
            reason = "is currently disabled."
        super().__init__(f"Messaging entity '{entity}' {reason}")


class MessageLockLost(BrokerError):
    """The lock does not exist, for example because the lock expired or the message was settled."""

    condition = "com.microsoft:message-lock-lost"
    status_code = 410


class SessionLockLost(BrokerError):
    """The receiver has no lock on the message session, for example because the lock expired.

    The text of this error is the same as in Azure.
    """

    condition = "com.microsoft:session-lock-lost"
    status_code = 410

    def __init__(self) -> None:
        super().__init__(
            "The session lock has expired on the MessageSession. Accept a new MessageSession."
        )


class SessionAlreadyLocked(BrokerError):
    """Another receiver has locked the message session. The error's text is the same as in Azure."""

    condition = "com.microsoft:session-cannot-be-locked"
    status_code = 409

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"The requested session '{session_id}' cannot be accepted. It may be locked by another"
            " receiver."
        )


class MessageNotFound(BrokerError):
    """No deferred or scheduled message has the requested sequence number."""

    condition = "com.microsoft:message-not-found"
    status_code = 404


class MessageSizeExceeded(BrokerError):
    """The message is larger than the queue's maximum message size."""

    condition = "amqp:link:message-size-exceeded"
    status_code = 413


class QuotaExceeded(BrokerError):
    """The queue has reached its maximum size."""

    condition = "amqp:resource-limit-exceeded"
    status_code = 403


class ArgumentError(BrokerError):
    """An argument is invalid or outside the limits of Service Bus."""

    condition = "com.microsoft:argument-error"
    status_code = 400


class NotAllowed(BrokerError):
    """The queue does not support this operation, for example sending to a dead-letter queue."""

    condition = "amqp:not-allowed"
    status_code = 400


class MessageStoreError(BrokerError):
    """The database could not be read or written, for example because the disk is full.

    If a change could not be written, the broker has undone the change.
    """


class SchemaError(BrokerError):
    """The file is not a database of the broker, has an unsupported version, or is in use."""


class BrokerClosed(BrokerError):
    """The broker has been closed."""

    condition = "amqp:connection:forced"
    status_code = 503
