"""Store a large result, and send the reply to a job."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from contract.messages import INLINE_LIMIT_BYTES, JobError, Payload, encode_reply
from worker.errors import Expired, LockLost
from worker.inference.loaded_model import EncodedResults, serialize_results
from worker.inputs.payloads import BlobPayloads
from worker.pipeline.receive import NO_RESULTS, InFlight, ReceivedJob
from worker.replies import CachedReply, ReplyCache, ReplySenders
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

    def pack(
        self, job: ReceivedJob, results: EncodedResults
    ) -> tuple[Payload, Mapping[str, Payload]]:
        """Return the payloads for the reply: for the result, and for each named result by name.

        A payload is the result itself, or a reference to a blob. The reply itself contains at most
        INLINE_LIMIT_BYTES bytes of results. Each result that would exceed this limit is stored as a
        blob. If the model reports progress, the last progress report is sent first.

        Raises:
            Fault: The results are too large, or one of them cannot be written as JSON.
            PayloadsUnavailable: Blob storage did not answer before the message's lock was lost.
            Cancelled: The model reports progress, and the job was cancelled while it ran.
            LockLost: The model reports progress, and the message's lock is lost.
            Expired: The model reports progress, and the job's deadline has passed.
        """
        if job.context is not None:
            job.context.finish()
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
        job.mark("stored_ms")
        first = payloads.pop(None)
        return first, {name: each for name, each in payloads.items() if name is not None}

    def send(
        self,
        job: ReceivedJob,
        outcome: Payload | JobError,
        results: Mapping[str, Payload] = NO_RESULTS,
    ) -> str:
        """Send the reply to a job, and return `succeeded` or the code of the job's error.

        `results` contains the named results, which only a succeeded job has.

        No reply is sent if `InFlight.record_end` was already called for the job.

        Raises:
            LockLost: The message's lock is lost, so another worker may have the message.
            ReplyUndelivered: The gateway or queue did not accept the reply before the lock
                was lost.
            Poison: The gateway or queue will never accept this reply.
            Expired: The job had already ended when the reply arrived, because its deadline had
                passed.
        """
        code = outcome.code if isinstance(outcome, JobError) else SUCCEEDED
        body = encode_reply(job.reply(outcome, results)) if job.request.reply_to else b""
        # The reply is cached before all calls that may fail, so that a redelivered job need not run
        # again in this process.
        self._cache.put(job.delivery, body, code)
        if job.lock.is_lost:
            raise LockLost("the message lock was lost while the job ran")
        if self._in_flight.is_open(job):
            self._deliver(job, body)
        return code

    def send_again(self, job: ReceivedJob, cached: CachedReply) -> str:
        """Send the cached reply of an earlier run, unless that reply was already delivered.

        Returns:
            `succeeded`, or the code of the job's error.

        Raises:
            ReplyUndelivered: The gateway or queue did not accept the reply before the lock
                was lost.
            Poison: The gateway or queue will never accept this reply.
            Expired: The job had already ended when the reply arrived, because its deadline had
                passed.
        """
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
        with job.span.step("reply", calls_out=True):
            is_accepted = self._senders.send(request.reply_to, body, request.job_id, job.lock.wait)
        self._cache.mark_delivered(job.delivery)
        if not is_accepted and job.is_expired(datetime.now(UTC)):
            raise Expired("the deadline passed before the reply arrived")
