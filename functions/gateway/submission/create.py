"""Create jobs: store a large input, send the message, start the orchestration, wait for the end.

The message is sent before the orchestration is started. The process may die after each step:

    store a large input ──▶ send the message ──▶ start the orchestration ──▶ answer the caller

If the caller waits for the end of the job, the start of the orchestration is delayed briefly. If
the job ends in this time, the orchestration starts with the outcome, and the orchestration's input
is the record of the outcome.

Before the orchestration is started, the job is not accepted, and no caller knows the job's id. If
the process dies after the message was sent, a worker still runs the job, and the worker's reply is
recorded. If the caller repeats the request with the same Idempotency-Key, the job id is the same,
so the request finds this outcome.

If Service Bus does not respond, the gateway still accepts the job: the input of the orchestration
contains the whole request, and the orchestration sends the message later.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

from azure.servicebus import ServiceBusMessage
from uuid_utils import uuid7

from contract import media
from contract.catalogue import Catalogue, ModelEntry, Priority, queue_of
from contract.errors import ForbiddenAddress, MessageTooLarge, TooManyLookUps, UnknownModel
from contract.guard import Resolver
from contract.messages import (
    INLINE_LIMIT_BYTES,
    FailureCode,
    InlineBytes,
    InlineJson,
    InputPayload,
    JobError,
    JobRequest,
    PayloadRef,
    ReplyUrl,
    Stage,
    encode_request,
    error_to_json,
    fits_inline,
)
from contract.names import PROPERTY_TRACEPARENT, input_blob
from gateway import problems
from gateway.addresses import resolve_url, tenant_share
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.jobs.delayed_start import DelayedStarts
from gateway.jobs.lifecycle import Jobs, Waiters
from gateway.jobs.model import (
    JobOutcome,
    Record,
    Ticket,
    final_record,
    initial_record,
    read_ticket,
    write_ticket,
)
from gateway.json_text import encode_json, parse_json
from gateway.problems import HttpProblem, invalid_input
from gateway.queues.client import Queues
from gateway.queues.estimates import WaitEstimates
from gateway.rates import RateLimiter
from gateway.reply_tokens import ReplyTokens
from gateway.settings import GatewaySettings
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadStore
from gateway.storage.uploads import upload_blob_of, upload_expiry
from gateway.submission.parse import (
    NewJob,
    SubmittedInput,
    check_coding,
    check_media_type,
    check_upload_size,
)
from gateway.submission.versions import VersionChooser
from gateway.telemetry import GatewayTracing, JobCounters

LONGEST_REFUSAL_SECONDS: Final = 300
"""The longest Retry-After, in seconds, if a job is refused because its queue is saturated."""

_LOOK_UP_RETRY_SECONDS: Final = 5

# How many bytes of an upload are read to check its media type and its size in pixels.
_HEAD_BYTES: Final = 64 * 1024

SEND_SECONDS: Final = 1.5
"""The longest time in seconds that a caller waits for Service Bus to accept the message."""

SEND_LATER: Final = timedelta(seconds=5)
"""How long requests send no messages of a model after one of them could not be sent.

During this time, the orchestrations of the model's new jobs send the messages.
"""

UNSENT_WAIT_SECONDS: Final = 5.0
"""The longest time in seconds that a caller waits for a job whose message is not sent yet."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job whose input is checked and stored, and which is ready to be sent and started."""

    request: JobRequest
    new_job: NewJob

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self.request.job_id

    def ticket(self, *, sent_at: datetime | None, outcome: JobOutcome | None) -> Ticket:
        """Return the input of the job's orchestration.

        `sent_at` is the time at which the job's message was sent; None if it was not sent. If the
        message was sent, the returned ticket does not contain the input for the model. `outcome` is
        the job's outcome; None if the job has not ended.
        """
        return write_ticket(
            self.request,
            self.new_job.traceparent,
            self.new_job.tenant,
            self.new_job.webhook_url,
            self.new_job.priority,
            sent_at=sent_at,
            label=self.new_job.label,
            outcome=outcome,
            parent=self.new_job.parent,
        )


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that a request has submitted.

    `is_replay` is true if an earlier request with the same Idempotency-Key created the job.
    """

    job_id: str
    record: Record
    is_replay: bool


@dataclass(frozen=True, slots=True)
class JobCreator:
    """Creates jobs: sends their messages, starts their orchestrations and waits for their end."""

    settings: GatewaySettings
    catalogue: Catalogue
    queues: Queues
    tokens: ReplyTokens
    tracing: GatewayTracing
    resolver: Resolver
    estimates: WaitEstimates
    counters: JobCounters
    payloads: PayloadStore
    blobs: Blobs
    jobs: Jobs
    waiters: Waiters
    starts: DelayedStarts
    versions: VersionChooser
    clock: Clock
    url_inputs: RateLimiter
    """Limits how often each tenant may submit a job whose input is fetched from a URL."""
    send_later_until: dict[str, datetime] = field(default_factory=dict)
    """By model name, the time until which only orchestrations send the model's messages.

    A request that fails to send a message sets this time. Until then, no other request tries.
    """

    async def create(
        self, durable: Durable, new_jobs: Sequence[NewJob], wait_seconds: float
    ) -> list[SubmittedJob]:
        """Create the jobs of a request, and wait up to `wait_seconds` for the end of the jobs.

        All jobs are checked before the first job is started. If one job must be refused, no job is
        started. Raises HttpProblem if a job is refused, or Unavailable if a service fails.
        """
        prepared = [await self.prepare(new_job) for new_job in new_jobs]
        for new_job in new_jobs:
            new_job.drop_data()
        records = await gather_all(
            [
                self.start_and_wait(durable, job, wait_seconds, is_only_start=True)
                for job in prepared
            ]
        )
        return [
            SubmittedJob(job.job_id, record, is_replay=False)
            for job, record in zip(prepared, records, strict=True)
        ]

    async def prepare(self, new_job: NewJob, job_id: str | None = None) -> PreparedJob:
        """Check the submission, store large inputs, and return the prepared job.

        If the model has several versions, this method chooses the version. The request in the
        prepared job contains the version, so the version stays the same when the job is sent again.

        The job is not started. If the process dies before the start, the stored inputs remain
        although no job refers to them. If `job_id` is None, a new id is created. Raises HttpProblem
        if the submission is refused, or Unavailable if the blob storage fails.
        """
        job_id = job_id or str(uuid7())
        model = new_job.model
        if model.versions and not new_job.is_pinned:
            model = await self.versions.choose(model, job_id)
        self._refuse_if_saturated(model, new_job)
        self._refuse_too_many_urls(new_job)
        await self._check_addresses(new_job)
        created_at = self.clock()
        first, inputs = await self._store_inputs(new_job, job_id)
        request = JobRequest(
            job_id=job_id,
            model=model.name,
            input=first,
            inputs=inputs,
            created_at=created_at,
            deadline=created_at + timedelta(seconds=new_job.deadline_seconds),
            parameters=new_job.parameters,
        )
        return PreparedJob(request, replace(new_job, model=model))

    async def start_and_wait(
        self, durable: Durable, job: PreparedJob, wait_seconds: float, *, is_only_start: bool
    ) -> Record:
        """Send and start a job, and wait until the job ends.

        `is_only_start` is true if no other request can start this job. If a job ends before its
        orchestration starts, its outcome may be recorded only in the orchestration's input. A
        second start would replace this input, so the outcome is recorded there only if
        `is_only_start` is true.

        Returns the final record, or the initial record if the job does not end within
        `wait_seconds`, or within UNSENT_WAIT_SECONDS if Service Bus does not respond. Raises
        Unavailable if the start of the job may have failed. After the start, a failure of the
        storage raises no error, because the job exists.
        """
        # The worker of a model that reports progress asks for the orchestration at once.
        may_delay = is_only_start and wait_seconds > 0 and not job.new_job.model.reports_progress
        with (
            self.waiters.waiting(job.job_id) as ended,
            self.starts.delaying(job.job_id, job.request.model, may_delay=may_delay),
        ):
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + wait_seconds
            job, sent_at = await self._send(job)
            if sent_at is None:
                ends_at = min(ends_at, loop.time() + UNSENT_WAIT_SECONDS)
            left_seconds = max(0.0, ends_at - loop.time())
            outcome = await self.starts.wait_for_outcome(
                job.job_id, 0.0 if sent_at is None else left_seconds
            )
            ticket = job.ticket(sent_at=sent_at, outcome=outcome)
            await durable.start(job.job_id, ticket.text)
            self.starts.record_start(job.job_id)
            _log.info(
                "job %s of the model %s was accepted [traceparent %s]",
                *(job.job_id, ticket.model, job.new_job.traceparent),
            )
            # The estimates later compare this time with the time in the job's record.
            created_at = datetime.fromisoformat(ticket.created_at)
            self.estimates.record_accepted(ticket.model, created_at, ticket.priority)
            self.counters.record_accepted(ticket.model)
            initial = initial_record(ticket)
            if outcome is not None:
                return final_record(initial, outcome)
            left_seconds = max(0.0, ends_at - loop.time())
            final = await self.jobs.wait(durable, job.job_id, initial, ended, left_seconds)
            return final or initial

    async def _send(self, job: PreparedJob) -> tuple[PreparedJob, datetime | None]:
        """Send the job's message, and return the job and the time at which it was sent.

        If the message cannot be sent now, the time is None, and the orchestration sends the message
        later. In this case the input of the orchestration must contain the whole request, so large
        inputs of the job are stored in blobs. Raises Unavailable if an input cannot be stored.
        """
        model = job.request.model
        ends_at = self.send_later_until.get(model)
        if ends_at is None or self.clock() >= ends_at:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._send_request(
                        job.request, job.new_job.priority, job.new_job.traceparent
                    )
            except (Unavailable, TimeoutError) as error:
                self.send_later_until[model] = self.clock() + SEND_LATER
                _log.warning(
                    "job %s: the message could not be sent (%r); the orchestration will send it",
                    job.job_id,
                    error,
                )
            except (MessageTooLarge, UnknownModel):
                pass  # the orchestration ends the job with this error
            else:
                return job, self.clock()
        return await self._make_small(job), None

    async def enqueue(self, ticket_text: str) -> str | None:
        """Send the request of a job that was started although its message could not be sent.

        This is the activity `enqueue`, whose input is the job's ticket. Returns None, or the JSON
        text of a JobError if the request can never be sent. Raises Unavailable if the queue did not
        accept the message, and a repeated call may succeed.
        """
        ticket = read_ticket(ticket_text)
        try:
            await self._send_request(ticket.request(), ticket.priority, ticket.traceparent)
        except (MessageTooLarge, UnknownModel) as error:
            refused = JobError(FailureCode.UNAVAILABLE, str(error), Stage.QUEUE, retryable=False)
            return json.dumps(error_to_json(refused))
        return None

    async def _send_request(
        self, request: JobRequest, priority: Priority, traceparent: str | None
    ) -> None:
        """Send a request, with its reply URL, to the model's queue.

        A repeated call sends a message with the same id, and the queue drops this message as a
        duplicate. If the job's deadline has passed, nothing is sent, because the job expires.
        Raises UnknownModel, MessageTooLarge, or Unavailable if the queue did not accept the
        message.
        """
        left = request.deadline - self.clock()
        if left.total_seconds() <= 0:
            return
        queue = queue_of(self.catalogue.model(request.model), priority)
        reply_to = ReplyUrl(self.tokens.url(request.job_id, request.deadline, queue))
        message = ServiceBusMessage(
            encode_request(replace(request, reply_to=reply_to)),
            content_type=media.JSON,
            message_id=request.job_id,
            correlation_id=request.job_id,
        )
        # Rounded up, because the SDK truncates to seconds and 0 s would prevent the delivery.
        message.time_to_live = math.ceil(left.total_seconds())
        with self.tracing.sending(queue, request.job_id, traceparent) as trace:
            message.application_properties = {PROPERTY_TRACEPARENT: trace} if trace else None
            await self.queues.send(queue, message)

    async def _make_small(self, job: PreparedJob) -> PreparedJob:
        """Store the job's inputs in blobs if they are too large for an orchestration's history.

        Returns the job, with a payload reference for each stored input. Raises Unavailable if the
        blob storage fails.
        """
        request, left_bytes = job.request, INLINE_LIMIT_BYTES
        first, left_bytes = await self._make_input_small(request.input, job.job_id, left_bytes)
        inputs = {}
        for name, payload in request.inputs.items():
            inputs[name], left_bytes = await self._make_input_small(
                payload, job.job_id, left_bytes, name
            )
        return replace(job, request=replace(request, input=first, inputs=inputs))

    async def _make_input_small(
        self, payload: InputPayload, job_id: str, left_bytes: int, name: str | None = None
    ) -> tuple[InputPayload, int]:
        """Store an input in a blob if the input is larger than `left_bytes`.

        `name` is the name of the named input; None for the first input. Returns two values: the
        input or the reference to its blob, and the number of bytes that remain for later inputs.
        """
        match payload:
            case InlineBytes(media_type, data):
                pass
            case InlineJson(value):
                media_type, data = media.JSON, encode_json(value)
            case _:
                return payload, left_bytes
        if fits_inline(len(data), left_bytes):
            return payload, left_bytes - len(data)
        return await self.payloads.put(input_blob(job_id, name), data, media_type), left_bytes

    def _refuse_if_saturated(self, model: ModelEntry, job: NewJob) -> None:
        """Raise the problem `saturated` if the job would probably expire in the queue."""
        if not self.settings.refuse_when_saturated:
            return
        late_seconds = self.estimates.lateness_seconds(model, job.deadline_seconds, job.priority)
        if late_seconds is None:
            return
        seconds = min(LONGEST_REFUSAL_SECONDS, math.ceil(late_seconds))
        raise HttpProblem(
            problems.SATURATED,
            f"the job would take about {job.deadline_seconds + late_seconds:.0f} s, but its "
            f"deadline is in {job.deadline_seconds:.0f} s; try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    def _refuse_too_many_urls(self, job: NewJob) -> None:
        """Raise the problem `rate-limited` if the tenant has submitted too many inputs by URL."""
        rate = self.settings.url_input_rate
        for name, each in job.inputs.items():
            if each.url is None:
                continue
            decision = self.url_inputs.take(job.tenant, rate)
            if decision.is_allowed:
                continue
            seconds = decision.retry_after_seconds
            raise HttpProblem(
                problems.RATE_LIMITED,
                f"{_path_of(name)}.url: this gateway accepts at most {rate.count} inputs by URL "
                f"from each tenant in {rate.seconds} s; try again in {seconds} s, or upload the "
                "input",
                headers={"Retry-After": str(seconds)},
            )

    async def _check_addresses(self, job: NewJob) -> None:
        """Raise the problem `invalid-input` if the job contains a forbidden URL.

        Raise the problem `too-many-look-ups` if too many earlier DNS look-ups have not ended.
        """
        for name, each in job.inputs.items():
            if each.url is not None:
                try:
                    await self._check_address(f"{_path_of(name)}.url", each.url.url, job.tenant)
                except HttpProblem as problem:
                    problem.add_input(name)
                    raise
        if job.webhook_url is not None:
            if not self.settings.webhook_secrets:
                raise invalid_input(
                    "webhook.url: this gateway sends no webhooks, "
                    "because WEBHOOK_SECRETS is not set"
                )
            await self._check_address("webhook.url", job.webhook_url, job.tenant)

    async def _check_address(self, option: str, url: str, tenant: str) -> None:
        try:
            await resolve_url(self.settings.guard, self.resolver, url, tenant_share(tenant))
        except ForbiddenAddress as error:
            raise invalid_input(f"{option}: {error}") from None
        except TooManyLookUps as error:
            raise HttpProblem(
                problems.TOO_MANY_LOOK_UPS,
                f"{option}: {error}",
                headers={"Retry-After": str(_LOOK_UP_RETRY_SECONDS)},
            ) from None

    async def _store_inputs(
        self, job: NewJob, job_id: str
    ) -> tuple[InputPayload, dict[str, InputPayload]]:
        """Store large inputs of the job in blobs, and return the inputs for the job's request.

        The first value is the first input, and the second value contains the named inputs. A large
        input is returned as a reference to its blob, a small input as its content, and an input by
        URL as its URL. The total size of the contents is at most `inline_limit_bytes`.
        """
        payloads: dict[str | None, InputPayload] = {}
        left_bytes = self.settings.inline_limit_bytes
        for name, each in job.inputs.items():
            try:
                payloads[name] = await self._store_input(job, job_id, name, each, left_bytes)
            except HttpProblem as problem:
                problem.add_input(name)
                raise
            if isinstance(payloads[name], InlineBytes | InlineJson):
                left_bytes -= len(each.data)
        first = payloads.pop(None)
        return first, {name: payload for name, payload in payloads.items() if name is not None}

    async def _store_input(
        self,
        new_job: NewJob,
        job_id: str,
        name: str | None,
        submitted: SubmittedInput,
        inline_limit_bytes: int,
    ) -> InputPayload:
        if submitted.url is not None:
            return submitted.url
        if submitted.upload is not None:
            return await self._find_upload(new_job, name, submitted.upload, submitted.media_type)
        if not fits_inline(len(submitted.data), inline_limit_bytes):
            return await self.payloads.put(
                input_blob(job_id, name), submitted.data, submitted.media_type
            )
        if submitted.media_type == media.JSON:
            return InlineJson(parse_json(submitted.data))
        return InlineBytes(submitted.media_type, submitted.data)

    async def _find_upload(
        self, new_job: NewJob, name: str | None, upload_id: str, announced: str
    ) -> PayloadRef:
        """Return a reference to an upload of the tenant, after checking that the model accepts it.

        Only the first bytes of the upload are read. The reference contains the ETag of the blob. If
        the upload is overwritten later, the worker refuses it. Raises HttpProblem if the upload
        does not exist or is refused, or Unavailable if the blob storage fails.

        Args:
            new_job: The job that uses the upload.
            name: The name of the named input; None for the first input.
            upload_id: The id of the upload.
            announced: The media type that the request names; empty to use the type of the blob.
        """
        expires_at = upload_expiry(upload_id)
        blob = upload_blob_of(upload_id, new_job.tenant)
        is_valid = expires_at is not None and self.clock() < expires_at
        found = await self.blobs.look(blob, _HEAD_BYTES) if is_valid else None
        if found is None:
            raise invalid_input(
                f"there is no upload {upload_id[:100]!r}, because nothing was sent to its URL "
                "or the upload has expired; create a new upload with POST /v1/uploads"
            )
        check_coding(found.content_encoding)
        model = new_job.model.entry_of_input(name)
        check_upload_size(model, found.size_bytes)
        media_type = check_media_type(
            model,
            announced or media.essence(found.media_type) or None,
            found.head,
            is_whole=len(found.head) == found.size_bytes,
        )
        return PayloadRef(media_type, blob, found.size_bytes, None, found.etag)


def _path_of(name: str | None) -> str:
    """Return the path of an input in a JSON body. `name` is None for the first input."""
    return "input" if name is None else f"inputs.{name}"


async def gather_all(awaitables: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for all awaitables, and return their results in the same order.

    If some awaitables fail, this function still waits for all of them. It then raises the error of
    the first failed awaitable in the sequence.
    """
    if len(awaitables) == 1:
        return [await awaitables[0]]
    found = await asyncio.gather(*awaitables, return_exceptions=True)
    results = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results
