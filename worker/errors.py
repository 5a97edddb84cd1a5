"""The ways in which a job can fail, and how its message is settled.

    WorkerError
    ├── Fault                                          reply with the failure; complete
    │   ├── InvalidInput           invalid-input            the model cannot read this input
    │   ├── UnsupportedMediaType   unsupported-media-type   the model does not take this type
    │   ├── PayloadUnusable        payload-corrupt          not the bytes that were announced
    │   ├── InferenceFailed        inference-failed         the model raised
    │   ├── OutOfMemory            out-of-memory            too large for this worker's device
    │   ├── ResultTooLarge         result-too-large         larger than a job may return
    │   └── ExpiredForProducer     expired                  past its deadline; sent to a producer
    ├── Unwanted                                       no reply; complete
    │   ├── Expired                expired                  past its deadline
    │   ├── NotWaitedFor           not-waited-for           cancelled or finished
    │   └── Cancelled              cancelled                cancelled while it ran
    ├── Infrastructure                                 abandon after a delay: a later
    │   │                                              delivery may succeed
    │   ├── BrokerAway             broker-away              Service Bus does not answer
    │   │   └── QueueMissing       queue-missing            the queue does not exist
    │   ├── PayloadsAway           payloads-away            blob storage does not answer
    │   ├── ReplyUndelivered       reply-undelivered        the gateway does not answer
    │   ├── OutboundFailed         outbound-failed          a foreign server does not answer
    │   ├── DeviceLost             device-lost              the process must be restarted
    │   └── WorkerFault            worker-fault             a defect of the worker
    ├── Poison                                         dead-letter, with reason and description
    │   ├── UnreadableMessage      the contract's code      not one of our messages
    │   ├── WrongModel             wrong-model              on another model's queue
    │   ├── ReplyForbidden         reply-forbidden          a reply address that is not allowed
    │   └── ReplyRefused           reply-refused            the gateway will never accept it
    ├── HandedBack                 handed-back         release: this worker shuts down
    ├── NotFinished                not-finished        abandon: the grace period was too short
    ├── LockLost                   lock-lost           do nothing: another worker has the job
    ├── ModelUnusable                                  not about a job: the worker is not ready,
    │   │                                              receives nothing and tries again
    │   ├── ModelFailed            model-failed            its code raised
    │   ├── ModelUnfit             model-unfit             the class is not what its entry says
    │   ├── WeightsMissing         weights-missing         not found
    │   ├── WeightsMismatch        weights-mismatch        not the entry's digest
    │   ├── WeightsUnsafe          weights-unsafe          a pickle that would run code
    │   ├── WeightsDamaged         weights-damaged         truncated, or not weights at all
    │   ├── WeightsUnfit           weights-unfit           names or shapes do not fit
    │   └── WeightsAway            weights-away            blob storage or the cache fails
    └── SettingsError              bad-setting         not about a job: the start ends with exit 2

The settlement is an attribute of the class, and never depends on the text of an error.
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
    """The base class.

    Attributes:
        code: Stable; part of the reply, the metrics and the logs.
        retryable: Whether the same job may succeed later.
        stage: Where the job failed.
        settlement: How its message is settled.
    """

    code: ClassVar[str] = "worker-error"
    retryable: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.RUN
    settlement: ClassVar[Settlement] = Settlement.ABANDON


class Fault(WorkerError):
    """The job fails. The text is for the caller: what happened, and what to do."""

    settlement = Settlement.COMPLETE

    def to_job_error(self) -> JobError:
        """Return the failure as the reply carries it."""
        return JobError(self.code, str(self), self.stage, self.retryable)


class InvalidInput(Fault):
    """The model cannot use this input. Models may raise it, too: the text goes to the caller."""

    code = FailureCode.INVALID_INPUT.value


class UnsupportedMediaType(Fault):
    """The model does not take this media type."""

    code = FailureCode.UNSUPPORTED_MEDIA_TYPE.value


class PayloadUnusable(Fault):
    """The blob is missing, or is not what the payload reference describes."""

    code = FailureCode.PAYLOAD_CORRUPT.value
    stage = Stage.LOAD


class InferenceFailed(Fault):
    """The model raised, or returned something that is not a result."""

    code = FailureCode.INFERENCE_FAILED.value


class OutOfMemory(Fault):
    """A single input needs more memory than the device has. A larger device may suffice."""

    code = FailureCode.OUT_OF_MEMORY.value
    retryable = True


class ResultTooLarge(Fault):
    """The model's result is larger than a job may return."""

    code = FailureCode.RESULT_TOO_LARGE.value


class ExpiredForProducer(Fault):
    """The deadline has passed, and only the worker can inform the producer."""

    code = FailureCode.EXPIRED.value


class Unwanted(WorkerError):
    """The caller does not wait for this job: it ends without a reply."""

    settlement = Settlement.COMPLETE


class Expired(Unwanted):
    """The job's deadline has passed."""

    code = "expired"


class NotWaitedFor(Unwanted):
    """The job was cancelled or has ended in another way."""

    code = "not-waited-for"


class Cancelled(Unwanted):
    """The job is to stop. A model's context raises it; the model should not catch it."""

    code = "cancelled"


class Infrastructure(WorkerError):
    """A service that the worker needs does not work now."""

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
    """A foreign server sent no complete response. The text continues the words `the URL`."""

    code = "outbound-failed"
    stage = Stage.LOAD


class DeviceLost(Infrastructure):
    """The device fails every further call: this worker hands back its jobs and shuts down.

    For a job that was on the device this is a failed delivery, because it may be the cause.
    """

    code = "device-lost"


class WorkerFault(Infrastructure):
    """The worker itself failed unexpectedly."""

    code = "worker-fault"


class Poison(WorkerError):
    """The message can never succeed. The code is the dead letter's reason."""

    settlement = Settlement.DEAD_LETTER

    @property
    def reason(self) -> str:
        """Return the reason of the dead letter."""
        return self.code


class UnreadableMessage(Poison):
    """The message is not one of ours, or was written by a newer version."""

    code = "malformed-message"
    stage = Stage.QUEUE

    def __init__(self, message: str, reason: str = "malformed-message") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """Return the contract's own code."""
        return self._reason


class WrongModel(Poison):
    """The message names another model than that of its queue."""

    code = "wrong-model"
    stage = Stage.QUEUE


class ReplyForbidden(Poison):
    """Replies may not go to this address."""

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
    """The job had started, and was not finished in the grace period."""

    code = "not-finished"
    retryable = True
    settlement = Settlement.ABANDON


class LockLost(WorkerError):
    """The message's lock is lost: another worker has the job, or will have it."""

    code = "lock-lost"
    retryable = True
    settlement = Settlement.LEAVE


class ModelUnusable(WorkerError):
    """The model cannot be loaded now: nothing is received for it, and loading is tried again."""

    code = "model-unusable"
    stage = Stage.LOAD
    settlement = Settlement.LEAVE


class ModelFailed(ModelUnusable):
    """The model's own code raised while it was loaded."""

    code = "model-failed"


class ModelUnfit(ModelUnusable):
    """The model's class does not fit its entry in the catalogue."""

    code = "model-unfit"


class WeightsMissing(ModelUnusable):
    """The blob, package or file that the entry names does not exist."""

    code = "weights-missing"


class WeightsMismatch(ModelUnusable):
    """The weights have another digest than the entry demands."""

    code = "weights-mismatch"


class WeightsUnsafe(ModelUnusable):
    """The weights are a pickle with more than tensors. None of its code was executed."""

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
    """A setting is missing or wrong; the text names the variable."""

    code = "bad-setting"
