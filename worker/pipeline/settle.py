"""Complete, abandon, release or dead-letter the message of a job, depending on the job's outcome.

If a step raises an error, the job ends. The class of the error determines how the message is
settled (see `worker.errors`). Abandoned and released messages return to the queue. If the delivery
counts against the job, the worker writes this into the abandoned message. A worker dead-letters a
message that it receives after several such deliveries.
"""

import logging
from collections.abc import Mapping
from typing import Protocol

from worker.errors import (
    DeviceLost,
    Fault,
    Infrastructure,
    LockLost,
    OutOfMemory,
    Poison,
    Settlement,
    WorkerError,
)
from worker.memory.device_errors import is_device_lost, is_out_of_memory
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.pipeline.suspects import Suspects
from worker.processes.history import DeliveryHistory
from worker.retries import redelivery_delay_seconds
from worker.servicebus.link import LockedMessage
from worker.servicebus.receiver import SettleRequest

_log = logging.getLogger(__name__)


class SettlesMessages(Protocol):
    """An object that settles the messages of one queue, for example a `Receiver`."""

    def settle(self, request: SettleRequest) -> None:
        """Queue a request to settle a message. The receiver's thread settles the message later."""
        ...


class SettleStep:
    """Settles the messages of one model. Any thread may call the methods.

    The first call for a message settles the message. Later calls for the same message do nothing.
    """

    def __init__(
        self,
        in_flight: InFlight,
        receivers: Mapping[str, SettlesMessages],
        suspects: Suspects,
    ) -> None:
        """Store the dependencies.

        Args:
            in_flight: The messages that were received and are not settled.
            receivers: The receivers by the names of their queues.
            suspects: Starts jobs that must run alone after other jobs have ended.
        """
        self._in_flight = in_flight
        self._receivers = receivers
        self._suspects = suspects

    def complete(self, job: ReceivedJob, code: str) -> None:
        """Complete the message of a job whose reply was sent.

        The caller must send the reply first. If the worker is killed between the reply and this
        call, the job runs again, but the reply is not lost.

        Args:
            job: The job.
            code: `succeeded`, or the code of the job's error.
        """
        self._settle(SettleRequest(job.delivery, job.lock, Settlement.COMPLETE), code, job)

    def settle_without_reply(self, job: ReceivedJob, error: WorkerError) -> SettleRequest | None:
        """Settle the message of a job that ended without a reply.

        The class of the error determines how the message is settled.

        Returns:
            The request that settles the message. Its attribute `reason` is the code of the error.
            None if an earlier call has already settled the message.
        """
        error = LockLost("") if job.lock.is_lost else error
        request = _request(job.delivery, error, job)
        return request if self._settle(request, error.code, job) else None

    def refuse(self, delivery: LockedMessage, error: WorkerError) -> None:
        """Settle a message that did not become a job.

        The class of the error determines how the message is settled.
        """
        self._settle(_request(delivery, error), error.code)

    def _settle(self, request: SettleRequest, code: str, job: ReceivedJob | None = None) -> bool:
        if not self._in_flight.record_end(request, code, job):
            return False
        self._receivers[request.delivery.queue].settle(request)
        if job is not None:
            self._suspects.end_turn(job)
        return True


def _request(
    delivery: LockedMessage, error: WorkerError, job: ReceivedJob | None = None
) -> SettleRequest:
    reason = error.reason if isinstance(error, Poison) else error.code
    # Without a job, the lock is not renewed and could expire during a delay.
    is_postponed = job is not None and error.settlement is Settlement.ABANDON
    failed_count = delivery.history.failed_count
    delay_seconds = redelivery_delay_seconds(failed_count) if is_postponed else 0.0
    return SettleRequest(
        delivery,
        job.lock if job else None,
        error.settlement,
        reason,
        str(error),
        delay_seconds,
        _new_history(error, delivery.history, job),
    )


def _new_history(
    error: WorkerError, history: DeliveryHistory, job: ReceivedJob | None
) -> DeliveryHistory | None:
    """Return the delivery history after this delivery; None if the delivery does not count."""
    if job is not None and job.overrun_count:
        # The reply to the job could not be delivered, or the job ran in a batch.
        return history.add_overrun(job.overrun_count)
    if isinstance(error, DeviceLost):
        return history.add_death(ran_alone=job is not None and job.ran_alone, is_crash=True)
    return history.add_failure() if isinstance(error, Infrastructure) else None


def to_worker_error(error: BaseException, unexpected: type[WorkerError], model: str) -> WorkerError:
    """Return the WorkerError that ends a job after this error.

    Args:
        error: The error that a step or the model's code raised.
        unexpected: The class of the returned error if no other class describes `error`.
        model: The model's name, for the error's text.
    """
    if isinstance(error, WorkerError):
        return error
    if is_device_lost(error):
        return DeviceLost(type(error).__name__)
    if is_out_of_memory(error) and issubclass(unexpected, Fault):
        return OutOfMemory("this input needs more memory than the worker has")
    return unexpected(f"the model {model} failed on this input")
