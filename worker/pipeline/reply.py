"""Send the reply to a job, and then settle its message.

If a step raises an error, the job ends, and the class of the error determines how the message is
settled (see `worker.errors`). If the delivery counts against the job, the worker writes this into
the abandoned message. A worker dead-letters a message after several such deliveries.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from contract.messages import INLINE_LIMIT_BYTES, JobError, Payload, encode_reply
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import SettleRequest
from worker.errors import (
    DeviceLost,
    EngineLost,
    Expired,
    Fault,
    Infrastructure,
    LockLost,
    OutOfMemory,
    Poison,
    Settlement,
    WorkerError,
)
from worker.inference.loaded_model import EncodedResults, serialize_results
from worker.inputs.payloads import BlobPayloads
from worker.memory.device_errors import is_device_lost, is_out_of_memory
from worker.pipeline.receive import NO_RESULTS, InFlight, ReceivedJob
from worker.pipeline.suspects import Suspects
from worker.processes.history import DeliveryHistory
from worker.replies import CachedReply, ReplyCache, ReplySenders
from worker.retries import redelivery_delay_seconds
from worker.telemetry.recording import SUCCEEDED

_log = logging.getLogger(__name__)


class ReplyStep:
    """Sends the replies to the jobs of one model. Several threads may call the methods."""

    def __init__(
        self, payloads: BlobPayloads, senders: ReplySenders, cache: ReplyCache, in_flight: InFlight
    ) -> None:
        self._payloads = payloads
        self._senders = senders
        self._cache = cache
        self._in_flight = in_flight

    def store_results(
        self, job: ReceivedJob, results: EncodedResults
    ) -> tuple[Payload, Mapping[str, Payload]]:
        """Return the payloads for the reply: of the result, and of each named result by name.

        Results that would exceed INLINE_LIMIT_BYTES in the reply are stored as blobs. A model that
        reports progress first sends its last report, which raises an error if the job must stop.
        Raises Fault if the results cannot be sent, and PayloadsUnavailable if blob storage did not
        answer in time.
        """
        if job.context is not None:
            job.context.send_last_report()
        payloads: dict[str | None, Payload] = {}
        left_bytes = INLINE_LIMIT_BYTES
        for name, (each, data) in serialize_results(results).items():
            if len(data) <= left_bytes:
                payloads[name] = each
                left_bytes -= len(data)
            else:
                payloads[name] = self._payloads.store_result(
                    job.request.job_id, data, each.media_type, job.lock.wait
                )
        job.mark_step("stored_ms")
        first = payloads.pop(None)
        return first, {name: each for name, each in payloads.items() if name is not None}

    def send_reply(
        self,
        job: ReceivedJob,
        outcome: Payload | JobError,
        results: Mapping[str, Payload] = NO_RESULTS,
    ) -> str:
        """Send the reply to a job that has not ended, and return `succeeded` or its error's code.

        Before, what is left of the job's stream is written, if the store answers in time.

        Raises:
            LockLost: The message's lock is lost, so another worker may have the message.
            ReplyUndelivered: The receiver did not accept the reply before the lock was lost.
            Poison: The receiver will never accept this reply.
            Expired: The job's deadline had passed when the reply arrived.
        """
        if job.stream is not None:
            job.stream.flush()
        code = outcome.code if isinstance(outcome, JobError) else SUCCEEDED
        body = encode_reply(job.make_reply(outcome, results)) if job.request.reply_to else b""
        # The reply is cached before all calls that may fail, so that a redelivered job need not run
        # again in this process.
        self._cache.cache_reply(job.delivery, body, code)
        if job.lock.is_lost:
            raise LockLost("the message lock was lost while the job ran")
        if self._in_flight.needs_outcome(job):
            self._deliver(job, body)
        return code

    def send_cached_reply(self, job: ReceivedJob, cached: CachedReply) -> str:
        """Send the reply of an earlier run unless it was delivered, as `send_reply` does."""
        _log.info(
            "%s: job %s need not run again, because its reply is cached",
            job.request.model,
            job.request.job_id,
        )
        if not cached.is_delivered:
            self._deliver(job, cached.body)
        return cached.code

    def _deliver(self, job: ReceivedJob, body: bytes) -> None:
        request = job.request
        with job.span.record_step("reply", calls_out=True):
            is_accepted = self._senders.send_reply(
                request.reply_to, body, request.job_id, job.lock.wait
            )
        self._cache.mark_delivered(job.delivery)
        if not is_accepted and job.is_expired(datetime.now(UTC)):
            raise Expired("the deadline passed before the reply arrived")


class SettleStep:
    """Settles the messages of one model. Only the first call for a message has an effect.

    `requests` are the functions that request a settlement, by the names of the queues.
    """

    def __init__(
        self,
        in_flight: InFlight,
        requests: Mapping[str, Callable[[SettleRequest], None]],
        suspects: Suspects,
    ) -> None:
        self._in_flight = in_flight
        self._requests = requests
        self._suspects = suspects

    def complete_message(self, job: ReceivedJob, code: str) -> None:
        """Complete a job's message after its reply was sent, so that no kill loses the reply."""
        self._settle(SettleRequest(job.delivery, job.lock, Settlement.COMPLETE), code, job)

    def settle_without_reply(self, job: ReceivedJob, error: WorkerError) -> SettleRequest | None:
        """Settle a job's message as its error says. Return the request, if it is the first."""
        if job.stream is not None:
            job.stream.close()
        error = LockLost("") if job.lock.is_lost else error
        request = _request(job.delivery, error, job)
        return request if self._settle(request, error.code, job) else None

    def refuse_message(self, delivery: LockedMessage, error: WorkerError) -> None:
        """Settle a message that did not become a job, as the error says."""
        self._settle(_request(delivery, error), error.code)

    def _settle(self, request: SettleRequest, code: str, job: ReceivedJob | None = None) -> bool:
        if not self._in_flight.record_end(request, code, job):
            return False
        self._requests[request.delivery.queue](request)
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
    if isinstance(error, EngineLost) and error.has_started:
        ran_alone = job is not None and job.ran_alone
        return history.add_death(ran_alone=ran_alone, is_crash=error.is_crash)
    return history.add_failure() if isinstance(error, Infrastructure) else None


def to_worker_error(error: BaseException, unexpected: type[WorkerError], model: str) -> WorkerError:
    """Return the WorkerError that ends a job after this error: `unexpected` if no other fits."""
    if isinstance(error, WorkerError):
        return error
    if is_device_lost(error):
        return DeviceLost(type(error).__name__)
    if is_out_of_memory(error) and issubclass(unexpected, Fault):
        return OutOfMemory("this input needs more memory than the worker has")
    return unexpected(f"the model {model} failed on this input")
