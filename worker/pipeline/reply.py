"""Reply: store a large result, and send the reply."""

import logging

from contract.messages import INLINE_LIMIT_BYTES, JobError, Payload, encode_reply
from worker.errors import LockLost
from worker.inference.loaded_model import Result, serialize_result
from worker.inputs.payloads import BlobPayloads
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.replies import CachedReply, ReplyCache, ReplySenders
from worker.telemetry.recording import SUCCEEDED

_log = logging.getLogger(__name__)


class ReplyStep:
    """Send the replies of one model's jobs. Runs on several threads."""

    def __init__(
        self, payloads: BlobPayloads, senders: ReplySenders, cache: ReplyCache, in_flight: InFlight
    ) -> None:
        self._payloads = payloads
        self._senders = senders
        self._cache = cache
        self._in_flight = in_flight

    def pack(self, job: ReceivedJob, result: Result) -> Payload:
        """Return the result as the reply carries it: inline, or stored as a blob if it is large.

        Raises:
            Fault: The result is too large, or cannot be written as JSON.
            PayloadsAway: Blob storage does not answer while the lock is held.
            Cancelled: The model reports progress, and the job was cancelled while it ran.
        """
        if job.context is not None:
            job.context.finish()
        data = serialize_result(result)
        if len(data) <= INLINE_LIMIT_BYTES:
            return result
        return self._payloads.store(job.request.job_id, data, result.media_type, job.lock.wait)

    def send(self, job: ReceivedJob, outcome: Payload | JobError) -> str:
        """Send the reply, unless the job was given back meanwhile; return the outcome's code.

        Raises:
            LockLost: Another worker may have the job.
            ReplyUndelivered: The receiver did not answer while the lock was held.
            Poison: The receiver will never accept this reply.
        """
        code = outcome.code if isinstance(outcome, JobError) else SUCCEEDED
        body = encode_reply(job.reply(outcome)) if job.request.reply_to else b""
        # Before all steps that may fail: a redelivery to this process need not run again.
        self._cache.put(job.delivery, body, code)
        if job.lock.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if self._in_flight.is_open(job):
            self._deliver(job, body)
        return code

    def send_again(self, job: ReceivedJob, cached: CachedReply) -> str:
        """Send the reply of an earlier run, unless it was delivered; return the outcome's code."""
        _log.info("%s: job %s need not run again", job.request.model, job.request.job_id)
        if not cached.is_delivered:
            self._deliver(job, cached.body)
        return cached.code

    def _deliver(self, job: ReceivedJob, body: bytes) -> None:
        request = job.request
        with job.span.step("reply", calls_out=True):
            self._senders.send(request.reply_to, body, request.job_id, job.lock.wait)
        self._cache.mark_delivered(job.delivery)
