"""Store a large result, and send the reply to a job."""

import logging
from datetime import UTC, datetime

from contract.messages import INLINE_LIMIT_BYTES, JobError, Payload, encode_reply
from worker.errors import Expired, LockLost
from worker.inference.loaded_model import Result, serialize_result
from worker.inputs.payloads import BlobPayloads
from worker.pipeline.receive import InFlight, ReceivedJob
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

    def pack(self, job: ReceivedJob, result: Result) -> Payload:
        """Return the payload for the reply: the result itself, or a reference to a blob.

        A result of more than INLINE_LIMIT_BYTES bytes is stored as a blob. If the model reports
        progress, the last progress report is sent first.

        Raises:
            Fault: The result is too large, or cannot be written as JSON.
            PayloadsUnavailable: Blob storage did not answer before the message's lock was lost.
            Cancelled: The model reports progress, and the job was cancelled while it ran.
            LockLost: The model reports progress, and the message's lock is lost.
            Expired: The model reports progress, and the job's deadline has passed.
        """
        if job.context is not None:
            job.context.finish()
        data = serialize_result(result)
        payload: Payload = result
        if len(data) > INLINE_LIMIT_BYTES:
            job_id = job.request.job_id
            payload = self._payloads.store(job_id, data, result.media_type, job.lock.wait)
        job.mark("stored_ms")
        return payload

    def send(self, job: ReceivedJob, outcome: Payload | JobError) -> str:
        """Send the reply to a job, and return `succeeded` or the code of the job's error.

        No reply is sent if `InFlight.end` was already called for the job.

        Raises:
            LockLost: The message's lock is lost, so another worker may have the message.
            ReplyUndelivered: The gateway, queue or webhook did not accept the reply before the lock
                was lost.
            Poison: The gateway, queue or webhook will never accept this reply.
            Expired: The job had already ended when the reply arrived, because its deadline had
                passed.
        """
        code = outcome.code if isinstance(outcome, JobError) else SUCCEEDED
        body = encode_reply(job.reply(outcome)) if job.request.reply_to else b""
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
            ReplyUndelivered: The gateway, queue or webhook did not accept the reply before the lock
                was lost.
            Poison: The gateway, queue or webhook will never accept this reply.
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
