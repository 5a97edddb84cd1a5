"""From a message to a job in hand."""

import time
from datetime import datetime

from contract.catalogue import Model
from contract.errors import ContractError
from contract.messages import JobRequest, ReplyQueue, ReplyWebhook, decode_request
from worker.errors import Expired, LockLost, TooLate, UnreadableMessage, WorkerError, WrongModel
from worker.messages.job import Job
from worker.messages.lease import Leases, Renew
from worker.messages.servicebus import Delivery
from worker.observed.tracing import Tracing
from worker.outcomes.outlets import Outlets


class Opening:
    """Reads messages, refuses what can never succeed, and holds the lease of the rest."""

    def __init__(
        self, model: Model, outlets: Outlets, leases: Leases, tracing: Tracing | None = None
    ) -> None:
        self._model = model
        self._tracing = tracing or Tracing()
        self._outlets = outlets
        self._leases = leases

    def open(self, delivery: Delivery, renew: Renew, now: datetime) -> Job:
        """The job of a message; Poison, Expired or LockLost."""
        if (lock_seconds := delivery.lock_seconds(now)) <= 0:
            # This process was stopped for a while, and the message lay in its socket.
            raise LockLost("the lock ran out before the message was read")
        request = self._read(delivery)
        self._outlets.check(request.reply_to)
        if now >= request.deadline and not _is_told(request):
            raise Expired("the deadline passed before the job was received")
        lease = self._leases.hold(
            delivery,
            renew,
            # The broker's clock may be ahead of ours, and a lock never lasts longer than it may.
            min(lock_seconds, self._model.lock_seconds),
            time.monotonic() + (request.deadline - now).total_seconds(),
        )
        span = self._tracing.job(self._model.name, self._model.queue, request.job_id, delivery)
        return Job(request, delivery, lease, span)

    def _read(self, delivery: Delivery) -> JobRequest:
        if delivery.body is None:
            raise UnreadableMessage("the message has no body of bytes, or one that is too large")
        try:
            request = decode_request(delivery.body)
        except ContractError as error:
            raise UnreadableMessage(str(error), error.code) from None
        if request.model != self._model.name:
            raise WrongModel(f"{request.model!r} is not the model of queue {self._model.queue}")
        return request


def expired(job: Job, text: str) -> WorkerError:
    """How a job ends whose deadline has passed: told to a producer, since a gateway knows."""
    return TooLate(text) if _is_told(job.request) else Expired(text)


def _is_told(request: JobRequest) -> bool:
    return isinstance(request.reply_to, ReplyQueue | ReplyWebhook)
