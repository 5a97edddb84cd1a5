"""The errors of the worker, and how the message of a failed job is settled.

Each group of errors has its own settlement. The classes below stand in this order, each with its
stable code and its condition.

    WorkerError
    ├── Fault             reply with the failure; complete
    ├── Unwanted          no reply; complete
    ├── Infrastructure    abandon after a delay: a later delivery may succeed; counts as a failure
    ├── Poison            dead-letter, with reason and description
    ├── HandedBack        release: the job has not started
    ├── NotFinished       abandon: interrupted by no fault of its own
    ├── LockLost          do nothing: another worker has the job
    └── ModelUnusable     no job of the model is received until a later load succeeds

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

    def __init_subclass__(cls, **declared: str | bool) -> None:
        """Set the attributes that a class declares beside its base class."""
        super().__init_subclass__()
        for name, value in declared.items():
            if name not in WorkerError.__annotations__:
                raise TypeError(f"{cls.__name__}: a WorkerError has no attribute {name}")
            setattr(cls, name, value)


class Fault(WorkerError, settlement=Settlement.COMPLETE):
    """An error that makes the job fail at once. Its caller gets the error's text."""

    def to_job_error(self) -> JobError:
        """Return the error in the format that a reply contains."""
        return JobError(self.code, str(self), self.stage, self.retryable)


class InvalidInput(Fault, code=FailureCode.INVALID_INPUT.value):
    """The model cannot use this input. The code of a model may also raise this error."""


class UnsupportedMediaType(Fault, code=FailureCode.UNSUPPORTED_MEDIA_TYPE.value):
    """The model does not accept the input's media type."""


class PayloadUnusable(Fault, code=FailureCode.PAYLOAD_CORRUPT.value, stage=Stage.LOAD):
    """The input's blob does not exist, or its content does not match the payload reference."""


class InferenceFailed(Fault, code=FailureCode.INFERENCE_FAILED.value):
    """The model raised an error, or returned a value that cannot be used as a result."""


class ChildFailed(Fault, code=FailureCode.CHILD_FAILED.value):
    """A child job has failed or was refused. The code of a model may handle this error."""


class OutOfMemory(Fault, code=FailureCode.OUT_OF_MEMORY.value, retryable=True):
    """A single input needs more memory than the device has. A larger device may run the job."""


class ResultTooLarge(Fault, code=FailureCode.RESULT_TOO_LARGE.value):
    """The model's result is larger than the limit for results."""


class RunTooLong(Fault, code=FailureCode.RUN_TOO_LONG.value):
    """The model ran this job, and no other, longer than `max_run_seconds` allows."""

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the error for the limit `seconds`."""
        return cls(
            f"the model ran longer than {seconds:g} s for this job; send a smaller input, or raise "
            "max_run_seconds in the model's catalogue entry"
        )


class ModelBroken(Fault, code=FailureCode.MODEL_BROKEN.value, stage=Stage.LOAD, retryable=True):
    """The worker cannot load the model, and its settings say that jobs do not wait for a repair."""


class ExpiredForProducer(Fault, code=FailureCode.EXPIRED.value):
    """A producer's job has passed its deadline, so the producer gets a reply with this error."""


class Unwanted(WorkerError, settlement=Settlement.COMPLETE):
    """The caller no longer waits for this job, so the worker sends no reply."""


class Expired(Unwanted, code="expired"):
    """The job's deadline has passed."""


class NotWaitedFor(Unwanted, code="not-waited-for"):
    """The gateway no longer waits for the job, because the job was cancelled or has ended."""


class Cancelled(Unwanted, code="cancelled"):
    """The job was cancelled while it ran. A model should not catch this error of `Context`."""


class Infrastructure(
    WorkerError, code="infrastructure", retryable=True, settlement=Settlement.ABANDON
):
    """The worker cannot process the job now, for example because a service does not answer."""


class BrokerUnavailable(Infrastructure, code="broker-away", stage=Stage.QUEUE):
    """The broker cannot be reached, or refuses access."""


class QueueMissing(BrokerUnavailable, code="queue-missing"):
    """The broker has no queue with this name."""


class PayloadsUnavailable(Infrastructure, code="payloads-away", stage=Stage.LOAD):
    """Blob storage cannot be reached, or refuses access."""


class ReplyUndelivered(Infrastructure, code="reply-undelivered", stage=Stage.REPLY):
    """The gateway or queue did not accept the reply before the retries ended."""


class LookUpsBusy(Infrastructure, code="look-ups-busy", stage=Stage.LOAD):
    """Too many host names are being looked up in DNS, so this name was not looked up."""


class DeviceLost(Infrastructure, code="device-lost"):
    """The device no longer works. The worker returns all jobs to their queues and exits."""


class WorkerFault(Infrastructure, code="worker-fault"):
    """An unexpected error in the worker's own code."""


class Poison(WorkerError, settlement=Settlement.DEAD_LETTER):
    """The message can never be processed, so the worker dead-letters the message."""

    @property
    def reason(self) -> str:
        """The reason that is stored with the dead-lettered message."""
        return self.code


class UnreadableMessage(Poison, code="malformed-message", stage=Stage.QUEUE):
    """The message is not a valid job request, or its schema version is not supported."""

    def __init__(self, message: str, reason: str = "malformed-message") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """The code of the ContractError that explains why the message cannot be read."""
        return self._reason


class TooManyFailures(Poison, code="too-many-failures", stage=Stage.QUEUE):
    """Deliveries of the message have failed as often as `max_delivery_count` allows."""

    @property
    def reason(self) -> str:
        """The reason that Service Bus itself gives, so that others need to know only this one."""
        return "MaxDeliveryCountExceeded"


class WrongModel(Poison, code="wrong-model", stage=Stage.QUEUE):
    """The message is in the queue of one model, but names another model."""


class ReplyForbidden(Poison, code="reply-forbidden", stage=Stage.REPLY):
    """The message asks for a reply to an address that is not allowed."""


class ReplyRefused(Poison, code="reply-refused", stage=Stage.REPLY):
    """The gateway has refused the reply, and will never accept it."""


class HandedBack(WorkerError, code="handed-back", retryable=True, settlement=Settlement.RELEASE):
    """The job has not started, and the worker shuts down or unloads its model."""


class NotFinished(WorkerError, code="not-finished", retryable=True, settlement=Settlement.ABANDON):
    """The job was interrupted by no fault of its own, for example by the end of a grace period."""


class EngineLost(NotFinished, code="engine-lost"):
    """The engine server of the model died while it ran the job. The model is loaded again.

    `is_crash` says if the engine itself caused its death. `has_started` is False if it had ended
    before the job.
    """

    def __init__(self, message: str, *, is_crash: bool = True, has_started: bool = True) -> None:
        super().__init__(message)
        self.is_crash = is_crash
        self.has_started = has_started


class LockLost(WorkerError, code="lock-lost", retryable=True, settlement=Settlement.LEAVE):
    """The message's lock is lost. Another worker has received the message or will receive it."""


class ModelUnusable(
    WorkerError, code="model-unusable", stage=Stage.LOAD, settlement=Settlement.LEAVE
):
    """The model cannot be loaded now. No jobs are received for it until a load succeeds."""


class ModelFailed(ModelUnusable, code="model-failed"):
    """The model's own code raised an error while the worker loaded the model."""

    @classmethod
    def from_error(cls, implementation: str, error: BaseException) -> Self:
        """Return the error for what a module raised, with what to do if a package is missing."""
        text = f"{implementation} raised {type(error).__name__}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            text += (
                f": there is no module {error.name}; if a package contains it, add the package to "
                "requirements.txt and run `pip install -r requirements.txt`"
            )
        elif isinstance(error, SyntaxError):
            text += f": {error.filename}, line {error.lineno}: {error.msg}"
        return cls(text)


class ModelUnfit(ModelUnusable, code="model-unfit"):
    """The model's class does not fit its entry in the catalogue."""


class EngineFailed(ModelUnusable, code="engine-failed"):
    """The engine server of the model cannot be started, or does not get healthy."""


class ModelKillsWorker(ModelUnusable, code="model-kills-worker"):
    """The last attempts to load the model have all killed the worker's process."""


class LoadInterrupted(ModelUnusable, code="load-interrupted", retryable=True):
    """The worker shuts down while it loads the model. A constructor should not catch this error."""


class DeviceMissing(ModelUnusable, code="device-missing"):
    """WORKER_REQUIRE_DEVICE requires a GPU, but this process cannot use one."""


class WeightsMissing(ModelUnusable, code="weights-missing"):
    """The catalogue entry names a blob, package or file that does not exist."""


class WeightsMismatch(ModelUnusable, code="weights-mismatch"):
    """The SHA-256 digest of the weights differs from the digest in the catalogue entry."""


class WeightsUnsafe(ModelUnusable, code="weights-unsafe"):
    """The weights are a pickle that contains more than tensors. The pickle was not executed."""


class WeightsDamaged(ModelUnusable, code="weights-damaged"):
    """The file with the weights is truncated or has an unknown format."""


class WeightsUnfit(ModelUnusable, code="weights-unfit"):
    """The weights belong to another network: their names or shapes do not fit this network."""


class WeightsUnavailable(ModelUnusable, code="weights-away", retryable=True):
    """The weights cannot be downloaded now, or cannot be stored in the cache on disk."""


def error_text(error: BaseException) -> str:
    """Return the first line of an error's text, or the error's class name if there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
