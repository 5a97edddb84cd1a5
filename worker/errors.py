"""The errors of the worker, and how the message of a failed job is settled.

Each line of this tree contains the class, its stable code, and the condition of an error. The line
of a group of errors contains what the worker does with the message.

    WorkerError
    ├── Fault                                          reply with the failure; complete
    │   ├── InvalidInput           invalid-input            the model cannot read this input
    │   ├── UnsupportedMediaType   unsupported-media-type   the model does not accept this type
    │   ├── PayloadUnusable        payload-corrupt          the blob does not match its reference
    │   ├── InferenceFailed        inference-failed         the model raised an error
    │   ├── ChildFailed            child-failed             a job of another model failed
    │   ├── OutOfMemory            out-of-memory            one input exceeds the device's memory
    │   ├── ResultTooLarge         result-too-large         the result exceeds the limit
    │   ├── RunTooLong             run-too-long             the model exceeded max_run_seconds
    │   ├── ModelBroken            model-broken             the model cannot be loaded
    │   └── ExpiredForProducer     expired                  the deadline passed; a producer waits
    ├── Unwanted                                       no reply; complete
    │   ├── Expired                expired                  the deadline passed
    │   ├── NotWaitedFor           not-waited-for           the job was cancelled or has ended
    │   └── Cancelled              cancelled                the job was cancelled while it ran
    ├── Infrastructure                                 abandon after a delay: a later
    │   │                                              delivery may succeed; counts as a failure
    │   ├── BrokerUnavailable      broker-away              Service Bus does not answer
    │   │   └── QueueMissing       queue-missing            the queue does not exist
    │   ├── PayloadsUnavailable    payloads-away            blob storage does not answer
    │   ├── ReplyUndelivered       reply-undelivered        the gateway does not answer
    │   ├── LookUpsBusy            look-ups-busy            too many DNS look-ups are running
    │   ├── DeviceLost             device-lost              the process must be restarted
    │   └── WorkerFault            worker-fault             a defect of the worker
    ├── Poison                                         dead-letter, with reason and description
    │   ├── UnreadableMessage      code of a ContractError  not a valid job request
    │   ├── TooManyFailures        too-many-failures        deliveries failed as often as allowed
    │   ├── WrongModel             wrong-model              the queue is another model's
    │   ├── ReplyForbidden         reply-forbidden          the reply address is not allowed
    │   └── ReplyRefused           reply-refused            the gateway will never accept it
    ├── HandedBack                 handed-back         release: the job has not started
    ├── NotFinished                not-finished        abandon: interrupted by no fault of its own
    ├── LockLost                   lock-lost           do nothing: another worker has the job
    └── ModelUnusable                                  no job of the model is received until
        │                                              a later load succeeds
        ├── ModelFailed            model-failed            the model's code raised an error
        ├── ModelUnfit             model-unfit             the class does not fit its entry
        ├── ModelKillsWorker       model-kills-worker      its loads have killed the process
        ├── DeviceMissing          device-missing          there is no GPU that the worker needs
        ├── WeightsMissing         weights-missing         the weights do not exist
        ├── WeightsMismatch        weights-mismatch        the digest differs from the entry's
        ├── WeightsUnsafe          weights-unsafe          the pickle would run code
        ├── WeightsDamaged         weights-damaged         truncated, or an unknown format
        ├── WeightsUnfit           weights-unfit           names or shapes do not fit the network
        └── WeightsUnavailable     weights-away            blob storage or the cache fails

Only the class of an error determines how the message is settled.
"""

from enum import StrEnum
from typing import ClassVar, Self

from contract.messages import FailureCode, JobError, Stage


class Settlement(StrEnum):
    """How a message is settled. Only ABANDON counts; LEAVE means that it is not settled."""

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
        stage: Where the job failed, for example while its model ran.
        settlement: How the job's message is settled.
    """

    code: ClassVar[str] = "worker-error"
    retryable: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.RUN
    settlement: ClassVar[Settlement] = Settlement.ABANDON


class Fault(WorkerError):
    """An error that makes the job fail at once. Its caller gets the error's text."""

    settlement = Settlement.COMPLETE

    def to_job_error(self) -> JobError:
        """Return the error in the format that a reply contains."""
        return JobError(self.code, str(self), self.stage, self.retryable)


class InvalidInput(Fault):
    """The model cannot use this input. The code of a model may also raise this error."""

    code = FailureCode.INVALID_INPUT.value


class UnsupportedMediaType(Fault):
    """The model does not accept the input's media type."""

    code = FailureCode.UNSUPPORTED_MEDIA_TYPE.value


class PayloadUnusable(Fault):
    """The input's blob does not exist, or its content does not match the payload reference."""

    code = FailureCode.PAYLOAD_CORRUPT.value
    stage = Stage.LOAD


class InferenceFailed(Fault):
    """The model raised an error, or returned a value that cannot be used as a result."""

    code = FailureCode.INFERENCE_FAILED.value


class ChildFailed(Fault):
    """A child job has failed or was refused. The code of a model may handle this error."""

    code = FailureCode.CHILD_FAILED.value


class OutOfMemory(Fault):
    """A single input needs more memory than the device has. A larger device may run the job."""

    code = FailureCode.OUT_OF_MEMORY.value
    retryable = True


class ResultTooLarge(Fault):
    """The model's result is larger than the limit for results."""

    code = FailureCode.RESULT_TOO_LARGE.value


class RunTooLong(Fault):
    """The model ran this job, and no other, longer than `max_run_seconds` allows."""

    code = FailureCode.RUN_TOO_LONG.value

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the error for the limit `seconds`."""
        return cls(
            f"the model ran longer than {seconds:g} s for this job; send a smaller input, or raise "
            "max_run_seconds in the model's catalogue entry"
        )


class ModelBroken(Fault):
    """The worker cannot load the model, and its settings say that jobs do not wait for a repair."""

    code = FailureCode.MODEL_BROKEN.value
    retryable = True
    stage = Stage.LOAD


class ExpiredForProducer(Fault):
    """A producer's job has passed its deadline, so the producer gets a reply with this error."""

    code = FailureCode.EXPIRED.value


class Unwanted(WorkerError):
    """The caller no longer waits for this job, so the worker sends no reply."""

    settlement = Settlement.COMPLETE


class Expired(Unwanted):
    """The job's deadline has passed."""

    code = "expired"


class NotWaitedFor(Unwanted):
    """The gateway no longer waits for the job, because the job was cancelled or has ended."""

    code = "not-waited-for"


class Cancelled(Unwanted):
    """The job was cancelled while it ran. A model should not catch this error of `Context`."""

    code = "cancelled"


class Infrastructure(WorkerError):
    """The worker cannot process the job now, for example because a service does not answer."""

    code = "infrastructure"
    retryable = True
    settlement = Settlement.ABANDON


class BrokerUnavailable(Infrastructure):
    """Service Bus cannot be reached, or refuses access."""

    code = "broker-away"
    stage = Stage.QUEUE


class QueueMissing(BrokerUnavailable):
    """The Service Bus namespace has no queue with this name."""

    code = "queue-missing"


class PayloadsUnavailable(Infrastructure):
    """Blob storage cannot be reached, or refuses access."""

    code = "payloads-away"
    stage = Stage.LOAD


class ReplyUndelivered(Infrastructure):
    """The gateway or queue did not accept the reply before the retries ended."""

    code = "reply-undelivered"
    stage = Stage.REPLY


class LookUpsBusy(Infrastructure):
    """Too many host names are being looked up in DNS, so this name was not looked up."""

    code = "look-ups-busy"
    stage = Stage.LOAD


class DeviceLost(Infrastructure):
    """The device no longer works. The worker returns all jobs to their queues and exits."""

    code = "device-lost"


class WorkerFault(Infrastructure):
    """An unexpected error in the worker's own code."""

    code = "worker-fault"


class Poison(WorkerError):
    """The message can never be processed, so the worker dead-letters the message."""

    settlement = Settlement.DEAD_LETTER

    @property
    def reason(self) -> str:
        """The reason that is stored with the dead-lettered message."""
        return self.code


class UnreadableMessage(Poison):
    """The message is not a valid job request, or its schema version is not supported."""

    code = "malformed-message"
    stage = Stage.QUEUE

    def __init__(self, message: str, reason: str = "malformed-message") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """The code of the ContractError that explains why the message cannot be read."""
        return self._reason


class TooManyFailures(Poison):
    """Deliveries of the message have failed as often as `max_delivery_count` allows."""

    code = "too-many-failures"
    stage = Stage.QUEUE

    @property
    def reason(self) -> str:
        """The reason that Service Bus itself gives, so that others need to know only this one."""
        return "MaxDeliveryCountExceeded"


class WrongModel(Poison):
    """The message is in the queue of one model, but names another model."""

    code = "wrong-model"
    stage = Stage.QUEUE


class ReplyForbidden(Poison):
    """The message asks for a reply to an address that is not allowed."""

    code = "reply-forbidden"
    stage = Stage.REPLY


class ReplyRefused(Poison):
    """The gateway has refused the reply, and will never accept it."""

    code = "reply-refused"
    stage = Stage.REPLY


class HandedBack(WorkerError):
    """The job has not started, and the worker shuts down or unloads its model."""

    code = "handed-back"
    retryable = True
    settlement = Settlement.RELEASE


class NotFinished(WorkerError):
    """The job was interrupted by no fault of its own, for example by the end of a grace period."""

    code = "not-finished"
    retryable = True
    settlement = Settlement.ABANDON


class LockLost(WorkerError):
    """The message's lock is lost. Another worker has received the message or will receive it."""

    code = "lock-lost"
    retryable = True
    settlement = Settlement.LEAVE


class ModelUnusable(WorkerError):
    """The model cannot be loaded now. No jobs are received for it until a load succeeds."""

    code = "model-unusable"
    stage = Stage.LOAD
    settlement = Settlement.LEAVE


class ModelFailed(ModelUnusable):
    """The model's own code raised an error while the worker loaded the model."""

    code = "model-failed"

    @classmethod
    def from_error(cls, implementation: str, error: BaseException) -> Self:
        """Return the error for what a module raised, with what to do if a package is missing."""
        text = f"{implementation} raised {type(error).__name__}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            text += (
                f": there is no module {error.name}; if a package contains it, add the package to "
                "requirements.txt and install it"
            )
        elif isinstance(error, SyntaxError):
            text += f": {error.filename}, line {error.lineno}: {error.msg}"
        return cls(text)


class ModelUnfit(ModelUnusable):
    """The model's class does not fit its entry in the catalogue."""

    code = "model-unfit"


class ModelKillsWorker(ModelUnusable):
    """The last attempts to load the model have all killed the worker's process."""

    code = "model-kills-worker"


class DeviceMissing(ModelUnusable):
    """WORKER_REQUIRE_DEVICE requires a GPU, but this process cannot use one."""

    code = "device-missing"


class WeightsMissing(ModelUnusable):
    """The catalogue entry names a blob, package or file that does not exist."""

    code = "weights-missing"


class WeightsMismatch(ModelUnusable):
    """The SHA-256 digest of the weights differs from the digest in the catalogue entry."""

    code = "weights-mismatch"


class WeightsUnsafe(ModelUnusable):
    """The weights are a pickle that contains more than tensors. The pickle was not executed."""

    code = "weights-unsafe"


class WeightsDamaged(ModelUnusable):
    """The file with the weights is truncated or has an unknown format."""

    code = "weights-damaged"


class WeightsUnfit(ModelUnusable):
    """The weights belong to another network: their names or shapes do not fit this network."""

    code = "weights-unfit"


class WeightsUnavailable(ModelUnusable):
    """The weights cannot be downloaded now, or cannot be stored in the cache on disk."""

    code = "weights-away"
    retryable = True
