"""Why a job ends in another way than with its result, and what that means for its message.

    WorkerError
    ├── Fault                                          the caller is told; then complete
    │   ├── InvalidInput           invalid-input            the model cannot read this input
    │   ├── UnsupportedMediaType   unsupported-media-type   the model does not take this type
    │   ├── PayloadUnusable        payload-corrupt          not the bytes that were announced
    │   ├── InferenceFailed        inference-failed         the model raised
    │   ├── OutOfMemory            out-of-memory            too large for this worker's device
    │   ├── ResultTooLarge         result-too-large         nobody could fetch it
    │   └── TooLate                expired                  past its deadline, told to a producer
    ├── Unwanted                                       nobody is told; complete
    │   ├── Expired                expired                  past its deadline
    │   ├── NotWaitedFor           not-waited-for           cancelled or finished
    │   └── Cancelled              cancelled                the same, heard while it ran
    ├── Infrastructure                                 abandon after a while: a later delivery
    │   │                                              may succeed
    │   ├── BrokerAway             broker-away              Service Bus does not answer
    │   │   └── QueueMissing       queue-missing            it has no such queue
    │   ├── PayloadsAway           payloads-away            blob storage does not answer
    │   ├── ReplyUndelivered       reply-undelivered        the gateway does not answer
    │   ├── OutboundFailed         outbound-failed          a stranger's server does not answer
    │   ├── DeviceLost             device-lost              the process must be started anew
    │   └── WorkerFault            worker-fault             a defect of ours
    ├── Poison                                         dead-letter, with reason and description
    │   ├── UnreadableMessage      the contract's code      not a message of ours
    │   ├── WrongModel             wrong-model              on another model's queue
    │   ├── ReplyForbidden         reply-forbidden          a reply URL that we must not call
    │   └── ReplyRefused           reply-refused            the gateway will never take it
    ├── HandedBack                 handed-back         release: this worker is leaving
    ├── NotFinished                not-finished        abandon: the grace was too short for it
    ├── LockLost                   lock-lost           leave alone: it is another worker's now
    ├── ModelUnusable                                  not about a job: the worker is not ready,
    │   │                                              leaves the queue alone and tries again
    │   ├── ModelFailed            model-failed            its code raised
    │   ├── ModelUnfit             model-unfit             the class is not what its entry says
    │   ├── WeightsMissing         weights-missing         nothing is where the entry points
    │   ├── WeightsMismatch        weights-mismatch        other bytes than the entry's digest
    │   ├── WeightsUnsafe          weights-unsafe          a pickle that wants to run code
    │   ├── WeightsDamaged         weights-damaged         cut off, or no weights at all
    │   ├── WeightsUnfit           weights-unfit           names or shapes are not the network's
    │   └── WeightsAway            weights-away            no blob storage, or nowhere to keep them
    └── SettingsError              bad-setting         not about a job: the start ends with exit 2

The settlement is an attribute of the class: no error's text is ever read to decide.
"""

from enum import StrEnum
from typing import ClassVar

from contract.messages import FailureCode, JobError, Stage


class Settlement(StrEnum):
    """The ways to end a message."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    RELEASE = "release"
    DEAD_LETTER = "dead-letter"
    LEAVE = "leave"


class WorkerError(Exception):
    """Base of all: `code` is stable, `retryable` tells whether the same again may succeed."""

    code: ClassVar[str] = "worker-error"
    retryable: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.RUN
    settlement: ClassVar[Settlement] = Settlement.ABANDON


class Fault(WorkerError):
    """The job fails; the text is for its caller: what happened and what to do."""

    settlement = Settlement.COMPLETE

    def to_job_error(self) -> JobError:
        """The failure as the reply carries it."""
        return JobError(self.code, str(self), self.stage, self.retryable)


class InvalidInput(Fault):
    """The model cannot use this input. Raised by models, too: the text goes to the caller."""

    code = FailureCode.INVALID_INPUT.value


class UnsupportedMediaType(Fault):
    """The model does not take this media type."""

    code = FailureCode.UNSUPPORTED_MEDIA_TYPE.value


class PayloadUnusable(Fault):
    """The blob is missing, or is not what the payload reference describes."""

    code = FailureCode.PAYLOAD_CORRUPT.value
    stage = Stage.LOAD


class InferenceFailed(Fault):
    """The model raised, or returned what is no result."""

    code = FailureCode.INFERENCE_FAILED.value


class OutOfMemory(Fault):
    """One input alone needs more memory than the device has. A larger one may do."""

    code = FailureCode.OUT_OF_MEMORY.value
    retryable = True


class ResultTooLarge(Fault):
    """The model's result is over what a job may return."""

    code = FailureCode.RESULT_TOO_LARGE.value


class TooLate(Fault):
    """The deadline has passed, and only the worker can tell the producer so."""

    code = FailureCode.EXPIRED.value


class Unwanted(WorkerError):
    """Nobody waits for this job: it ends without a reply."""

    settlement = Settlement.COMPLETE


class Expired(Unwanted):
    """The job's deadline has passed."""

    code = "expired"


class NotWaitedFor(Unwanted):
    """The job was cancelled or has ended in another way."""

    code = "not-waited-for"


class Cancelled(Unwanted):
    """The job is to stop. Raised in models by their context: let it pass."""

    code = "cancelled"


class Infrastructure(WorkerError):
    """A service that we need does not do its part now."""

    code = "infrastructure"
    retryable = True
    settlement = Settlement.ABANDON


class BrokerAway(Infrastructure):
    """Service Bus cannot be reached or refuses us."""

    code = "broker-away"
    stage = Stage.QUEUE


class QueueMissing(BrokerAway):
    """The namespace has no queue of this name."""

    code = "queue-missing"


class PayloadsAway(Infrastructure):
    """Blob storage cannot be reached or refuses us."""

    code = "payloads-away"
    stage = Stage.LOAD


class ReplyUndelivered(Infrastructure):
    """The reply could not be delivered while the lock was held."""

    code = "reply-undelivered"
    stage = Stage.REPLY


class OutboundFailed(Infrastructure):
    """A stranger's server gave no whole answer: the text goes on from `the URL`."""

    code = "outbound-failed"
    stage = Stage.LOAD


class DeviceLost(Infrastructure):
    """The device fails whatever it is given from now on: this worker hands back all, and goes.

    A job that was on the device counts it as a failed delivery, as its input may be the cause.
    """

    code = "device-lost"


class WorkerFault(Infrastructure):
    """The worker itself failed in a way that nobody foresaw."""

    code = "worker-fault"


class Poison(WorkerError):
    """The message can never succeed. The code is the dead letter's reason."""

    settlement = Settlement.DEAD_LETTER

    @property
    def reason(self) -> str:
        """What the dead letter names as its reason."""
        return self.code


class UnreadableMessage(Poison):
    """The message is none of ours, or written by a newer version."""

    code = "malformed-message"
    stage = Stage.QUEUE

    def __init__(self, message: str, reason: str = "malformed-message") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """The contract's own code."""
        return self._reason


class WrongModel(Poison):
    """The message names another model than the one whose queue it was on."""

    code = "wrong-model"
    stage = Stage.QUEUE


class ReplyForbidden(Poison):
    """The reply URL is not on the list of hosts that replies may go to."""

    code = "reply-forbidden"
    stage = Stage.REPLY


class ReplyRefused(Poison):
    """The gateway answered that it will not take this reply, now or later."""

    code = "reply-refused"
    stage = Stage.REPLY


class HandedBack(WorkerError):
    """The job had not started when this worker was told to leave."""

    code = "handed-back"
    retryable = True
    settlement = Settlement.RELEASE


class NotFinished(WorkerError):
    """The job had started and could not be finished in this worker's grace."""

    code = "not-finished"
    retryable = True
    settlement = Settlement.ABANDON


class LockLost(WorkerError):
    """The message's lock is gone: another worker has the job, or will."""

    code = "lock-lost"
    retryable = True
    settlement = Settlement.LEAVE


class ModelUnusable(WorkerError):
    """The model cannot be loaded as things are: its queue is left alone, and it is tried again."""

    code = "model-unusable"
    stage = Stage.LOAD
    settlement = Settlement.LEAVE


class ModelFailed(ModelUnusable):
    """The model's own code raised while it was loaded."""

    code = "model-failed"


class ModelUnfit(ModelUnusable):
    """The model's class, or what it gives, is not what its entry in the catalogue says."""

    code = "model-unfit"


class WeightsMissing(ModelUnusable):
    """There is no blob, package or file where the entry points."""

    code = "weights-missing"


class WeightsMismatch(ModelUnusable):
    """The weights have another digest than the entry says."""

    code = "weights-mismatch"


class WeightsUnsafe(ModelUnusable):
    """The weights are a pickle of more than tensors. Nothing of it has been executed."""

    code = "weights-unsafe"


class WeightsDamaged(ModelUnusable):
    """The weights are cut off, or in no format that is read."""

    code = "weights-damaged"


class WeightsUnfit(ModelUnusable):
    """The weights are another network's: their names or shapes do not fit."""

    code = "weights-unfit"


class WeightsAway(ModelUnusable):
    """Blob storage cannot be reached or refuses us, or the cache on disk cannot be written."""

    code = "weights-away"
    retryable = True


class SettingsError(WorkerError):
    """A setting is missing or wrong: the text names the variable."""

    code = "bad-setting"
