"""Create jobs: store a large input, send the message, start the orchestration, wait for the end.

The message is sent before the orchestration is started. The process may die after each step:

    store a large input ──▶ send the message ──▶ start the orchestration ──▶ answer the caller

Before the first step, a job takes a place if its tenant may only have so many. If the process dies
before the start, the place becomes free when the job is looked up, or at its deadline.

If the caller waits for the end of the job, the start of the orchestration is delayed briefly. If
the job ends in this time, the orchestration starts with the outcome, and the orchestration's input
is the record of the outcome.

Before the orchestration is started, the job is not accepted, and no caller knows the job's id. If
the process dies after the message was sent, a worker still runs the job, and the worker's reply is
recorded. If the caller repeats the request with the same Idempotency-Key, the job id is the same,
so the request finds this outcome.

If the broker does not respond, the gateway still accepts the job: the input of the orchestration
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

from uuid_utils import uuid7

from contract import media
from contract.catalogue import Catalogue, ModelEntry, Priority, choose_version, queue_of
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
from contract.names import input_blob
from gateway import problems
from gateway.addresses import resolve_url, tenant_share
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.jobs.delayed_start import START_MARGIN, DelayedStarts
from gateway.jobs.lifecycle import Jobs, Waiters
from gateway.jobs.model import (
    JobOutcome,
    Record,
    Ticket,
    final_record,
    initial_record,
    is_final,
    read_ticket,
    write_ticket,
)
from gateway.json_text import encode_json, parse_json
from gateway.keys import owner_of
from gateway.problems import HttpProblem, invalid_input
from gateway.queues.estimates import WaitEstimates
from gateway.queues.model_states import ModelStates
from gateway.rates import RateLimiter
from gateway.reply_tokens import ReplyTokens
from gateway.settings import GatewaySettings
from gateway.shares.gate import Gate
from gateway.shares.limits import Limits
from gateway.shares.room import Entry
from gateway.storage.blobs import Blobs
from gateway.storage.files import FileStore
from gateway.storage.payloads import PayloadStore
from gateway.storage.uploads import upload_blob_of, upload_expiry
from gateway.submission.parse import (
    NewJob,
    SubmittedInput,
    check_coding,
    check_media_type,
    check_upload_size,
    naming_input,
)
from gateway.telemetry import JobCounters

LONGEST_REFUSAL_SECONDS: Final = 300
"""The longest Retry-After of a saturated queue."""

_LOOK_UP_RETRY_SECONDS: Final = 5

# How many bytes of an upload are read to check its media type and its size in pixels.
_HEAD_BYTES: Final = 64 * 1024

SEND_SECONDS: Final = 1.5
"""The longest time in seconds that a caller waits for the broker to accept the message."""

SEND_LATER: Final = timedelta(seconds=5)
"""How long after a failed send only the orchestrations send messages of the model."""

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
        """Return the orchestration's input, without the model's input if the message was sent."""
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
            metadata=self.new_job.metadata,
            is_background=self.new_job.is_background,
        )


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A submitted job. It is a replay if an earlier request with the same key created it."""

    job_id: str
    record: Record
    is_replay: bool


@dataclass(frozen=True, slots=True)
class JobCreator:
    """Creates jobs: sends their messages, starts their orchestrations and waits for their end."""

    settings: GatewaySettings
    catalogue: Catalogue
    gate: Gate
    tokens: ReplyTokens
    resolver: Resolver
    estimates: WaitEstimates
    counters: JobCounters
    payloads: PayloadStore
    blobs: Blobs
    files: FileStore
    jobs: Jobs
    waiters: Waiters
    starts: DelayedStarts
    states: ModelStates
    limits: Limits
    clock: Clock
    url_inputs: RateLimiter
    """Limits how often each tenant may submit a job whose input is fetched from a URL."""
    start_delay_seconds: float
    """How long a waiting request delays the start of its job's orchestration at most."""
    send_later_until: dict[str, datetime] = field(default_factory=dict)
    """By model, until when only orchestrations send messages, because a request failed to."""

    async def create(
        self, durable: Durable, new_jobs: Sequence[NewJob], wait_seconds: float
    ) -> list[SubmittedJob]:
        """Create all jobs of a request or, if one is refused, none; then wait for their end."""
        prepared = await self.prepare_all(new_jobs, [str(uuid7()) for _ in new_jobs])
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

    async def prepare_all(
        self, new_jobs: Sequence[NewJob], job_ids: Sequence[str]
    ) -> list[PreparedJob]:
        """Prepare the jobs of a tenant, and count all or none against the tenant's limits."""
        now, tenant = self.clock(), new_jobs[0].tenant
        seconds = (new_job.deadline_seconds for new_job in new_jobs)
        deadlines = (now + timedelta(seconds=each) for each in seconds)
        await self.limits.take(tenant, dict(zip(job_ids, deadlines, strict=True)))
        try:
            pairs = zip(new_jobs, job_ids, strict=True)
            return [await self.prepare(new_job, job_id) for new_job, job_id in pairs]
        except BaseException:
            self.limits.drop(tenant, job_ids)
            raise

    async def prepare(self, new_job: NewJob, job_id: str) -> PreparedJob:
        """Check a job, choose its version, and store large inputs, which a failed start leaves."""
        model = new_job.model
        if model.versions and not new_job.is_pinned:
            model = await self._choose_version(model, job_id)
        if (batch := new_job.batch) is None:
            self._refuse_if_saturated(model, new_job)
            self._refuse_too_many_urls(new_job)
        await self._check_addresses(new_job)
        created_at = self.clock()
        deadline = created_at + timedelta(seconds=new_job.deadline_seconds)
        first, inputs = await self._store_inputs(new_job, job_id)
        request = JobRequest(
            job_id=job_id,
            model=model.name,
            input=first,
            inputs=inputs,
            created_at=created_at,
            deadline=deadline if batch is None else batch.deadline,
            parameters=new_job.parameters,
            stream=new_job.stream,
            operation=new_job.operation,
            batch=None if batch is None else batch.id,
        )
        return PreparedJob(request, replace(new_job, model=model))

    async def _choose_version(self, model: ModelEntry, job_id: str) -> ModelEntry:
        """Return the version for this job id, or the fallback if no worker is ready for it."""
        versions = self.catalogue.versions(model)
        chosen = versions[choose_version(model.versions, job_id)]
        if model.fallback in {"", chosen.version}:
            return chosen
        ready = await self.states.ready()
        if ready is None or chosen.name in ready:
            return chosen
        _log.info(
            "job %s gets version %s of %s, because no worker is ready for version %s",
            *(job_id, model.fallback, model.model_name, chosen.version),
        )
        return versions[model.fallback]

    async def start_and_wait(
        self, durable: Durable, job: PreparedJob, wait_seconds: float, *, is_only_start: bool
    ) -> Record:
        """Send and start a job; return its final record, or its initial one if it has not ended.

        `is_only_start` is true if no other request can start this job. Only then may the outcome of
        a job that ends before its start be recorded in the orchestration's input alone, because a
        second start would replace this input.

        Waits only UNSENT_WAIT_SECONDS if the broker does not respond. Raises Unavailable if the
        start may have failed. Later failures of the storage raise no error: the job exists.
        """
        # The worker of a model that reports progress asks for the orchestration at once.
        may_delay = is_only_start and not job.new_job.model.reports_progress
        delay_seconds = min(self.start_delay_seconds, wait_seconds) if may_delay else 0.0
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + wait_seconds
        with self.waiters.waiting(job.job_id) as ended:
            record, is_sent = await self._start(durable, job, ended, delay_seconds)
            if is_final(record):
                return record
            if not is_sent:
                ends_at = min(ends_at, loop.time() + UNSENT_WAIT_SECONDS)
            left_seconds = max(0.0, ends_at - loop.time())
            final = await self.jobs.wait(durable, job.job_id, record, ended, left_seconds)
            return final or record

    async def _start(
        self,
        durable: Durable,
        job: PreparedJob,
        ended: asyncio.Future[JobOutcome],
        delay_seconds: float,
    ) -> tuple[Record, bool]:
        """Send and start a job; return its record, and whether its message was sent.

        The start waits up to `delay_seconds` for the outcome, which `ended` gets if another
        instance of the app records it.
        """
        job_id, loop = job.job_id, asyncio.get_running_loop()
        starts_at, starts_after = loop.time() + delay_seconds, None
        if delay_seconds > 0:
            starts_after = self.clock() + timedelta(seconds=delay_seconds) - START_MARGIN
        with self.starts.delaying(job_id, job.request.model, may_delay=delay_seconds > 0):
            job, sent_at = await self._send(job, starts_after)
            left_seconds = 0.0 if sent_at is None else max(0.0, starts_at - loop.time())
            outcome = await self.starts.wait_for_outcome(job_id, ended, left_seconds)
            ticket = job.ticket(sent_at=sent_at, outcome=outcome)
            await durable.start(job_id, ticket.text)
            self.starts.record_start(job_id)
        _log.info(
            "job %s of the model %s was accepted [traceparent %s]",
            *(job_id, ticket.model, job.new_job.traceparent),
        )
        self.counters.record_accepted(ticket.model)
        if outcome is None and starts_after is not None:
            outcome = await self.jobs.catch_up(durable, job_id, ended)
        initial = initial_record(ticket)
        record = initial if outcome is None else final_record(initial, outcome)
        return record, sent_at is not None

    async def wait(
        self, durable: Durable, submitted: SubmittedJob, wait_seconds: float
    ) -> SubmittedJob:
        """Wait up to `wait_seconds` for the end of a submitted job, and return the job."""
        job_id, record = submitted.job_id, submitted.record
        if is_final(record):
            return submitted
        with self.waiters.waiting(job_id) as ended:
            final = await self.jobs.wait(durable, job_id, record, ended, wait_seconds)
        return replace(submitted, record=final or record)

    async def _send(
        self, job: PreparedJob, starts_after: datetime | None
    ) -> tuple[PreparedJob, datetime | None]:
        """Send the message; return the job and the time, or None if the orchestration must."""
        model, new_job = job.request.model, job.new_job
        ends_at = self.send_later_until.get(model)
        if ends_at is None or self.clock() >= ends_at:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._send_request(
                        job.request,
                        new_job.priority,
                        new_job.tenant,
                        new_job.traceparent,
                        starts_after=starts_after,
                        # A parent that runs waits for its child.
                        may_hold=new_job.parent is None,
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

    async def send(self, job: PreparedJob) -> None:
        """Send the message of a job that has no orchestration.

        Raises Unavailable, MessageTooLarge or UnknownModel.
        """
        new_job = job.new_job
        await self._send_request(
            job.request, new_job.priority, new_job.tenant, new_job.traceparent, may_hold=True
        )

    async def enqueue(self, ticket_text: str) -> str | None:
        """Send the message of a started job; return a JobError as JSON if that is impossible."""
        ticket = read_ticket(ticket_text)
        try:
            await self._send_request(
                ticket.request(), ticket.priority, ticket.tenant, ticket.traceparent
            )
        except (MessageTooLarge, UnknownModel) as error:
            refused = JobError(FailureCode.UNAVAILABLE, str(error), Stage.QUEUE, retryable=False)
            return json.dumps(error_to_json(refused))
        return None

    async def _send_request(  # noqa: PLR0913 - what the message and the share depend on
        self,
        request: JobRequest,
        priority: Priority,
        tenant: str,
        traceparent: str | None,
        *,
        starts_after: datetime | None = None,
        may_hold: bool = False,
    ) -> None:
        """Send a request before its deadline, or hold it while its tenant has its share.

        The queue drops a repeat with the same message id.
        """
        if request.deadline <= self.clock():
            return
        model, owner = self.catalogue.model(request.model), owner_of(tenant)
        queue = queue_of(model, priority)
        url = self.tokens.url(request.job_id, request.deadline, queue, owner, starts_after)
        body = encode_request(replace(request, reply_to=ReplyUrl(url)))
        entry = Entry(
            request.job_id,
            owner,
            priority,
            request.deadline,
            request.created_at,
            traceparent,
            request.batch,
        )
        await self.gate.send(model, entry, body, may_hold=may_hold)

    async def _make_small(self, job: PreparedJob) -> PreparedJob:
        """Store the job's inputs in blobs if they are too large for an orchestration's history."""
        request, left_bytes = job.request, INLINE_LIMIT_BYTES
        small: dict[str | None, InputPayload] = {None: request.input}
        small.update(request.inputs)
        for name, payload in small.items():
            match payload:
                case InlineBytes(media_type, data):
                    pass
                case InlineJson(value):
                    media_type, data = media.JSON, encode_json(value)
                case _:
                    continue
            if fits_inline(len(data), left_bytes):
                left_bytes -= len(data)
            else:
                blob = input_blob(job.job_id, name)
                small[name] = await self.payloads.put(blob, data, media_type)
        first, inputs = _split_inputs(small)
        return replace(job, request=replace(request, input=first, inputs=inputs))

    def _refuse_if_saturated(self, model: ModelEntry, job: NewJob) -> None:
        """Raise the problem `saturated` if the job would probably expire in the queue."""
        if not self.settings.refuse_when_saturated:
            return
        held = self.gate.count_ahead(model, job.priority, job.tenant) if job.parent is None else 0.0
        late_seconds = self.estimates.lateness_seconds(
            model, job.deadline_seconds, job.priority, held
        )
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
        """Refuse forbidden URLs, and too many DNS look-ups."""
        for name, each in job.inputs.items():
            if each.url is not None:
                with naming_input(name):
                    await self._check_address(f"{_path_of(name)}.url", each.url.url, job.tenant)
        if job.webhook_url is not None:
            await self.check_webhook(job.webhook_url, job.tenant)

    async def check_webhook(self, url: str, tenant: str) -> None:
        """Raise HttpProblem if this gateway sends no webhooks, or none to this URL."""
        if not self.settings.webhook_secrets:
            raise invalid_input(
                "webhook.url: this gateway sends no webhooks, because WEBHOOK_SECRETS is not set"
            )
        await self._check_address("webhook.url", url, tenant)

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
        """Return the payloads; those beyond `inline_limit_bytes` in total are stored in blobs."""
        payloads: dict[str | None, InputPayload] = {}
        left_bytes = self.settings.inline_limit_bytes
        for name, each in job.inputs.items():
            with naming_input(name):
                payloads[name] = await self._store_input(job, job_id, name, each, left_bytes)
            if isinstance(payloads[name], InlineBytes | InlineJson):
                left_bytes -= len(each.data)
        return _split_inputs(payloads)

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
        if submitted.is_stored:
            return await self.find_stored(new_job, name, submitted)
        if submitted.pieces is not None:
            await self.store_pieces(submitted)
        if submitted.stored is not None:
            return submitted.stored
        if not fits_inline(len(submitted.data), inline_limit_bytes):
            return await self.payloads.put(
                input_blob(job_id, name), submitted.data, submitted.media_type
            )
        if submitted.media_type == media.JSON:
            return InlineJson(parse_json(submitted.data))
        return InlineBytes(submitted.media_type, submitted.data)

    async def store_pieces(self, submitted: SubmittedInput) -> None:
        """Store an input that is still arriving in a blob."""
        assert submitted.pieces is not None
        # The blob has an id of its own, because a repeated request with the same job id must not
        # write it at the same time.
        submitted.stored = await self.payloads.put_pieces(
            input_blob(str(uuid7())), submitted.pieces, submitted.media_type
        )
        submitted.pieces = None

    async def find_stored(
        self, new_job: NewJob, name: str | None, submitted: SubmittedInput
    ) -> PayloadRef:
        """Return a reference to an upload or a file. By its ETag, the worker refuses a change.

        A job of a batch may use what had not expired when the batch was created.
        """
        used_at = new_job.batch.created_at if new_job.batch else self.clock()
        if submitted.file is not None:
            blob = await self.files.find_blob(new_job.tenant, submitted.file, used_at)
            missing = f"there is no file {submitted.file[:100]!r}, or it has been deleted"
        else:
            upload_id = submitted.upload or ""
            expires_at = upload_expiry(upload_id)
            is_valid = expires_at is not None and used_at < expires_at
            blob = upload_blob_of(upload_id, new_job.tenant) if is_valid else None
            missing = (
                f"there is no upload {upload_id[:100]!r}, because nothing was sent to its URL "
                "or the upload has expired; create a new upload with POST /v1/uploads"
            )
        found = await self.blobs.look(blob, _HEAD_BYTES) if blob else None
        if blob is None or found is None:
            raise invalid_input(missing)
        check_coding(found.content_encoding)
        model = new_job.model.entry_of_input(name)
        check_upload_size(model, found.size_bytes)
        media_type = check_media_type(
            model,
            submitted.media_type or media.essence(found.media_type) or None,
            found.head,
            is_whole=len(found.head) == found.size_bytes,
        )
        return PayloadRef(media_type, blob, found.size_bytes, None, found.etag)


def _split_inputs(
    payloads: dict[str | None, InputPayload],
) -> tuple[InputPayload, dict[str, InputPayload]]:
    """Return the first input, which has the name None, and the named inputs."""
    named = {name: payload for name, payload in payloads.items() if name is not None}
    return payloads[None], named


def _path_of(name: str | None) -> str:
    """Return the path of an input in a JSON body. `name` is None for the first input."""
    return "input" if name is None else f"inputs.{name}"


async def gather_all(awaitables: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for all awaitables, also if one fails; then return their results, or raise an error."""
    if len(awaitables) == 1:
        return [await awaitables[0]]
    found = await asyncio.gather(*awaitables, return_exceptions=True)
    results = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results
