"""The ways in which a job can fail, and how its message is settled.

    WorkerError
    ├── Fault                                          reply with the failure; complete
    │   ├── InvalidInput           invalid-input            the model cannot read this input
    │   ├── UnsupportedMediaType   unsupported-media-type   the model does not accept this type
    │   ├── PayloadUnusable        payload-corrupt          the blob does not match its reference
    │   ├── InferenceFailed        inference-failed         the model raised an error
    │   ├── OutOfMemory            out-of-memory            too large for this worker's device
    │   ├── ResultTooLarge         result-too-large         larger than a job may return
    │   └── ExpiredForProducer     expired                  the deadline passed; a producer is told
    ├── Unwanted                                       no reply; complete
    │   ├── Expired                expired                  the deadline passed
    │   ├── NotWaitedFor           not-waited-for           cancelled or finished
    │   └── Cancelled              cancelled                cancelled while it ran
    ├── Infrastructure                                 abandon after a delay: a later
    │   │                                              delivery may succeed
    │   ├── BrokerAway             broker-away              Service Bus does not answer
    │   │   └── QueueMissing       queue-missing            the queue does not exist
    │   ├── PayloadsAway           payloads-away            blob storage does not answer
    │   ├── ReplyUndelivered       reply-undelivered        the gateway does not answer
    │   ├── OutboundFailed         outbound-failed          a server outside does not answer
    │   ├── DeviceLost             device-lost              the process must be restarted
    │   └── WorkerFault            worker-fault             a defect of the worker
    ├── Poison                                         dead-letter, with reason and description
    │   ├── UnreadableMessage      the contract's code      not one of our messages
    │   ├── WrongModel             wrong-model              on another model's queue
    │   ├── ReplyForbidden         reply-forbidden          the reply address is not allowed
    │   └── ReplyRefused           reply-refused            the gateway never accepts this reply
    ├── HandedBack                 handed-back         release: this worker shuts down
    ├── NotFinished                not-finished        abandon: the grace period was too short
    ├── LockLost                   lock-lost           do nothing: another worker has the job
    ├── ModelUnusable                                  concerns a model, not a job: the worker
    │   │                                              receives no jobs for it and tries again
    │   ├── ModelFailed            model-failed            the model's code raised an error
    │   ├── ModelUnfit             model-unfit             the class does not fit its entry
    │   ├── WeightsMissing         weights-missing         the weights do not exist
    │   ├── WeightsMismatch        weights-mismatch        the digest differs from the entry's
    │   ├── WeightsUnsafe          weights-unsafe          a pickle that would run code
    │   ├── WeightsDamaged         weights-damaged         truncated, or an unknown format
    │   ├── WeightsUnfit           weights-unfit           names or shapes do not fit the network
    │   └── WeightsAway            weights-away            blob storage or the cache fails
    └── SettingsError              bad-setting         concerns the start: exit code 2

The settlement is an attribute of the error's class; the text of an error never changes it.
"""

from enum import StrEnum
from typing import ClassVar

from contract.messages import FailureCode, JobError, Stage


class Settlement(StrEnum):
    """The ways to settle a message; LEAVE means not to settle it."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    RELEASE = "release"
    DEAD_LETTER = "dead-letter"
    LEAVE = "leave"


class WorkerError(Exception):
    """The base class of the worker's errors.

    Attributes:
        code: A stable code of the error, used in replies, metrics and logs.
        retryable: Whether the same job may succeed later.
        stage: The stage in which the job failed.
        settlement: How the job's message is settled.
    """

    code: ClassVar[str] = "worker-error"
    retryable: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.RUN
    settlement: ClassVar[Settlement] = Settlement.ABANDON


class Fault(WorkerError):
    """The job fails. The error's text goes to the caller: it says what happened and what to do."""

    settlement = Settlement.COMPLETE

    def to_job_error(self) -> JobError:
        """Return the error in the format of a job's reply."""
        return JobError(self.code, str(self), self.stage, self.retryable)


class InvalidInput(Fault):
    """The model cannot use this input. A model's code may raise this error, too."""

    code = FailureCode.INVALID_INPUT.value


class UnsupportedMediaType(Fault):
    """The model does not accept the input's media type."""

    code = FailureCode.UNSUPPORTED_MEDIA_TYPE.value


class PayloadUnusable(Fault):
    """The blob is missing, or is not what the payload reference describes."""

    code = FailureCode.PAYLOAD_CORRUPT.value
    stage = Stage.LOAD


class InferenceFailed(Fault):
    """The model raised an error, or returned a value that cannot be used as a result."""

    code = FailureCode.INFERENCE_FAILED.value


class OutOfMemory(Fault):
    """A single input needs more memory than the device has. A larger device may suffice."""

    code = FailureCode.OUT_OF_MEMORY.value
    retryable = True


class ResultTooLarge(Fault):
    """The model's result is larger than a job may return."""

    code = FailureCode.RESULT_TOO_LARGE.value


class ExpiredForProducer(Fault):
    """The job's deadline has passed, and the worker informs the job's producer by a reply."""

    code = FailureCode.EXPIRED.value


class Unwanted(WorkerError):
    """The caller no longer waits for this job, so it ends without a reply."""

    settlement = Settlement.COMPLETE


class Expired(Unwanted):
    """The job's deadline has passed."""

    code = "expired"


class NotWaitedFor(Unwanted):
    """The gateway no longer waits for the job: it was cancelled, or has already ended."""

    code = "not-waited-for"


class Cancelled(Unwanted):
    """The running job must stop.

    The model's context raises this error, and the model should not catch it.
    """

    code = "cancelled"


class Infrastructure(WorkerError):
    """A service that the worker needs is not available now."""

    code = "infrastructure"
    retryable = True
    settlement = Settlement.ABANDON


class BrokerAway(Infrastructure):
    """Service Bus cannot be reached, or refuses access."""

    code = "broker-away"
    stage = Stage.QUEUE


class QueueMissing(BrokerAway):
    """The namespace has no queue of this name."""

    code = "queue-missing"


class PayloadsAway(Infrastructure):
    """Blob storage cannot be reached, or refuses access."""

    code = "payloads-away"
    stage = Stage.LOAD


class ReplyUndelivered(Infrastructure):
    """The reply could not be delivered while the lock was held."""

    code = "reply-undelivered"
    stage = Stage.REPLY


class OutboundFailed(Infrastructure):
    """A server outside our system sent no complete response.

    The error's text is a predicate, for example "did not answer in time": the caller puts the
    subject before it.
    """

    code = "outbound-failed"
    stage = Stage.LOAD


class DeviceLost(Infrastructure):
    """Every further call to the device fails. The worker returns its jobs to the queue and exits.

    For a job that was running on the device, this counts as a failed delivery, because the job may
    have caused the failure.
    """

    code = "device-lost"


class WorkerFault(Infrastructure):
    """The worker itself failed unexpectedly."""

    code = "worker-fault"


class Poison(WorkerError):
    """The message can never succeed. The error's code becomes the reason of the dead letter."""

    settlement = Settlement.DEAD_LETTER

    @property
    def reason(self) -> str:
        """Return the reason of the dead letter."""
        return self.code


class UnreadableMessage(Poison):
    """The message is not a valid job request, or has a format of a newer version."""

    code = "malformed-message"
    stage = Stage.QUEUE

    def __init__(self, message: str, reason: str = "malformed-message") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """Return the error code of the message contract."""
        return self._reason


class WrongModel(Poison):
    """The message is on the queue of one model but names another model."""

    code = "wrong-model"
    stage = Stage.QUEUE


class ReplyForbidden(Poison):
    """Replies must not be sent to the address that the message names."""

    code = "reply-forbidden"
    stage = Stage.REPLY


class ReplyRefused(Poison):
    """The gateway will never accept this reply."""

    code = "reply-refused"
    stage = Stage.REPLY


class HandedBack(WorkerError):
    """The job had not started when this worker was told to shut down."""

    code = "handed-back"
    retryable = True
    settlement = Settlement.RELEASE


class NotFinished(WorkerError):
    """The job had started, but was not finished within the grace period of the shutdown."""

    code = "not-finished"
    retryable = True
    settlement = Settlement.ABANDON


class LockLost(WorkerError):
    """The message's lock is lost: another worker has received the message, or will receive it."""

    code = "lock-lost"
    retryable = True
    settlement = Settlement.LEAVE


class ModelUnusable(WorkerError):
    """The model cannot be loaded now. Its jobs are not received, and loading is tried again."""

    code = "model-unusable"
    stage = Stage.LOAD
    settlement = Settlement.LEAVE


class ModelFailed(ModelUnusable):
    """The model's own code raised an error while the model was loaded."""

    code = "model-failed"


class ModelUnfit(ModelUnusable):
    """The model's class does not fit its entry in the catalogue."""

    code = "model-unfit"


class WeightsMissing(ModelUnusable):
    """The blob, package or file that the entry names does not exist."""

    code = "weights-missing"


class WeightsMismatch(ModelUnusable):
    """The SHA-256 digest of the weights differs from the digest in the catalogue entry."""

    code = "weights-mismatch"


class WeightsUnsafe(ModelUnusable):
    """The weights are a pickle that contains more than tensors. None of its code was executed."""

    code = "weights-unsafe"


class WeightsDamaged(ModelUnusable):
    """The weights are truncated, or in an unknown format."""

    code = "weights-damaged"


class WeightsUnfit(ModelUnusable):
    """The weights belong to another network: their names or shapes do not fit."""

    code = "weights-unfit"


class WeightsAway(ModelUnusable):
    """Blob storage cannot be reached, or the cache on disk cannot be written."""

    code = "weights-away"
    retryable = True


class SettingsError(WorkerError):
    """A setting is missing or wrong. The error's text names the environment variable."""

    code = "bad-setting"
