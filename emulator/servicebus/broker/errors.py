"""What a queue may refuse, with the AMQP condition and the HTTP-like status of each refusal.

BrokerError
├── EntityNotFound            no such queue
├── EntityAlreadyExists       a queue of this name is there
├── MessageLockLost           the lock expired, was settled, or never existed
├── MessageNotFound           no deferred or scheduled message has this sequence number
├── MessageTooLarge           over the limit of the queue
├── QuotaExceeded             the queue is full
├── ArgumentError             a value that Service Bus refuses
├── NotAllowed                an operation that this entity does not have
├── StorageError              the change could not be written; nothing of it happened
├── SchemaError               the database at the start is not ours, or in use
└── BrokerClosed              the broker is shutting down
"""

from typing import ClassVar


class BrokerError(Exception):
    """A refusal that the peer is told: ``condition`` in AMQP, ``status_code`` in management."""

    condition: ClassVar[str] = "amqp:internal-error"
    status_code: ClassVar[int] = 500


class EntityNotFound(BrokerError):
    """There is no queue at this address."""

    condition = "amqp:not-found"
    status_code = 404


class EntityAlreadyExists(BrokerError):
    """There is a queue of this name."""

    condition = "com.microsoft:entity-already-exists"
    status_code = 409


class MessageLockLost(BrokerError):
    """The lock expired, was settled before, or never existed."""

    condition = "com.microsoft:message-lock-lost"
    status_code = 410


class MessageNotFound(BrokerError):
    """No deferred or scheduled message has this sequence number."""

    condition = "com.microsoft:message-not-found"
    status_code = 404


class MessageSizeExceeded(BrokerError):
    """The message is over the size that the queue accepts."""

    condition = "amqp:link:message-size-exceeded"
    status_code = 413


class QuotaExceeded(BrokerError):
    """The queue has no room left."""

    condition = "amqp:resource-limit-exceeded"
    status_code = 403


class ArgumentError(BrokerError):
    """A value that Service Bus refuses."""

    condition = "com.microsoft:argument-error"
    status_code = 400


class NotAllowed(BrokerError):
    """An operation that this entity does not have, such as sending to a dead-letter queue."""

    condition = "amqp:not-allowed"
    status_code = 400


class MessageStoreError(BrokerError):
    """The change could not be written (a full disk, say); nothing of it happened."""


class SchemaError(BrokerError):
    """The file is not a broker's database, is that of another version, or is in use."""


class BrokerClosed(BrokerError):
    """The broker is shutting down."""

    condition = "amqp:connection:forced"
    status_code = 503
