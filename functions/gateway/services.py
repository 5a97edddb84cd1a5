"""The components of the gateway, which are built once in each process."""

from dataclasses import dataclass, field
from datetime import timedelta

from contract.catalogue import Catalogue
from contract.errors import InvalidSetting
from contract.guard import Resolver
from contract.queues import names
from gateway.batches.create import Batches
from gateway.batches.intake import LineIntake
from gateway.batches.lines import BatchLines
from gateway.batches.native_lines import NativeLines
from gateway.batches.openai_lines import OpenAiLines
from gateway.batches.output_files import OutputFiles
from gateway.batches.sending import LineSender
from gateway.batches.step import BatchSteps
from gateway.batches.store import BatchStore
from gateway.batches.wake import BatchWaker
from gateway.bodies import LargeBodies
from gateway.brokers.factory import make_queues
from gateway.brokers.port import Queues
from gateway.clock import Clock, utc_now
from gateway.dead_letters.bulk import LetterActions
from gateway.dead_letters.reader import DeadLetterReader
from gateway.dead_letters.redrive import Redriver
from gateway.dead_letters.trigger import DeadLetterTrigger
from gateway.jobs.activities import Conclude
from gateway.jobs.children import JobCancellation
from gateway.jobs.delayed_start import START_DELAY_SECONDS, DelayedStarts
from gateway.jobs.ends import EndsLog
from gateway.jobs.lifecycle import Jobs, OutcomeStore, Waiters, is_line
from gateway.jobs.progress import ProgressStore
from gateway.jobs.search import JobSearch
from gateway.operations.overview import Operations
from gateway.operations.sums import MinuteSums
from gateway.operations.tenants import Tenants
from gateway.queues.estimates import WaitEstimates
from gateway.queues.model_states import ModelStates
from gateway.queues.workers import WorkerHeartbeats
from gateway.rates import RateLimiter
from gateway.reply_tokens import ReplyTokens
from gateway.settings import GatewaySettings
from gateway.shares.gate import Gate
from gateway.shares.limits import Limits
from gateway.shares.room_queue import RoomQueue
from gateway.shares.watch import JobEnds, RoomWatches
from gateway.storage.blobs import Blobs
from gateway.storage.factory import make_storage
from gateway.storage.files import FileStore
from gateway.storage.logs import LogWriter
from gateway.storage.payloads import PayloadLinks, PayloadStore
from gateway.streams.following import Streams
from gateway.streams.store import BlobLogs, StreamLogs
from gateway.submission.children import ChildJobs
from gateway.submission.create import JobCreator
from gateway.submission.idempotency import LIFETIME_HOURS, IdempotencyKeys
from gateway.telemetry import GatewayTracing, JobCounters, make_tracer_provider
from gateway.webhooks.activities import WebhookActivities
from gateway.webhooks.sender import WebhookSender


@dataclass(kw_only=True, repr=False, eq=False)
class Services:
    """The components of the gateway. Pass to each function only those that it needs."""

    settings: GatewaySettings
    catalogue: Catalogue
    queues: Queues
    payloads: PayloadStore
    blobs: Blobs
    links: PayloadLinks
    tokens: ReplyTokens
    webhooks: WebhookSender
    clock: Clock = utc_now
    tracing: GatewayTracing = field(default_factory=GatewayTracing)
    resolver: Resolver = field(default_factory=Resolver)
    start_delay_seconds: float = START_DELAY_SECONDS
    stream_store: StreamLogs | None = None
    """Where the logs of streams are; None if they are append blobs."""

    def __post_init__(self) -> None:
        settings, catalogue, clock = self.settings, self.catalogue, self.clock
        queues, blobs, payloads, tokens = self.queues, self.blobs, self.payloads, self.tokens
        self.bodies = LargeBodies(settings.body_memory_bytes)
        self.counters = JobCounters(clock)
        heartbeats = WorkerHeartbeats(blobs, clock, is_enabled=settings.has_heartbeats)
        states = ModelStates(heartbeats, clock)
        self.estimates = WaitEstimates(queues, clock, states)

        self.outcomes = OutcomeStore(blobs, self.counters)
        lifetime = timedelta(hours=settings.retention_hours)
        self.batch_store = BatchStore(blobs)
        outputs = OutputFiles(self.batch_store, blobs, lifetime)
        self.files = FileStore(blobs, payloads, clock, lifetime, outputs)
        self.waiters = Waiters(EndsLog(blobs, clock), self.outcomes)
        self.progress = ProgressStore(blobs, catalogue)
        self.starts = DelayedStarts(self.outcomes)
        self.batch_waker = BatchWaker()
        self.batch_lines = BatchLines(
            blobs,
            self.batch_store,
            self.batch_waker,
            catalogue,
            self.outcomes,
            self.progress,
            self.waiters,
            clock,
        )
        self.jobs = Jobs(
            self.outcomes, self.progress, self.waiters, self.starts, self.batch_lines, clock
        )
        self.job_ends = JobEnds(self.jobs, self.outcomes)
        self.limits = Limits(blobs, clock, self._has_ended)
        self.watches = RoomWatches(
            catalogue,
            blobs,
            lambda model: RoomQueue(model, queues, self.estimates, states, self.tracing, clock),
            self.limits.tenants,
            self.job_ends,
            clock,
        )
        self.gate = Gate(
            self.watches,
            self.limits,
            catalogue,
            self.estimates,
            clock,
            is_enabled=settings.has_shares,
        )
        self.search = JobSearch(self.jobs, self.progress)
        self.cancellation = JobCancellation(
            self.jobs, self.progress, blobs, LogWriter(blobs), self.gate, clock
        )
        self.streams = Streams(
            store=self.stream_store or BlobLogs(blobs),
            jobs=self.jobs,
            outcomes=self.outcomes,
            progress=self.progress,
            waiters=self.waiters,
            settings=settings,
        )

        self.conclude = Conclude(self.outcomes, self.progress, self.waiters, self.gate)
        self.creator = JobCreator(
            settings=settings,
            catalogue=catalogue,
            gate=self.gate,
            tokens=tokens,
            resolver=self.resolver,
            estimates=self.estimates,
            counters=self.counters,
            payloads=payloads,
            blobs=blobs,
            files=self.files,
            jobs=self.jobs,
            waiters=self.waiters,
            starts=self.starts,
            states=states,
            limits=self.limits,
            clock=clock,
            url_inputs=RateLimiter(clock),
            start_delay_seconds=self.start_delay_seconds,
        )
        openai_lines = OpenAiLines(catalogue, payloads)
        self.intake = LineIntake(
            blobs,
            payloads,
            self.bodies,
            self.creator,
            NativeLines(catalogue, payloads),
            openai_lines,
        )
        self.batch_steps = BatchSteps(
            blobs,
            self.batch_store,
            self.intake,
            LineSender(self.intake, self.creator, self.counters, self.limits),
            catalogue,
            states,
            self.outcomes,
            self.limits,
            self.gate,
            clock,
        )
        self.batches = Batches(
            self.batch_store,
            blobs,
            payloads,
            self.creator,
            self.intake,
            self.batch_waker,
            clock,
            self.claim_lifetime,
        )
        self.children = ChildJobs(self.creator)
        self.idempotency = IdempotencyKeys(self.creator, self.claim_lifetime)

        self.dead_letters = DeadLetterTrigger(
            blobs, queues, self.jobs, tokens, self.gate, names(catalogue), clock
        )
        self.dead_letter_reader = DeadLetterReader(queues, self.dead_letters, names(catalogue))
        redriver = Redriver(blobs, queues, self.jobs, tokens, self.waiters, self.counters, clock)
        self.letter_actions = LetterActions(blobs, redriver, clock)
        self.webhook_activities = WebhookActivities(
            self.jobs,
            self.batch_store,
            self.progress,
            payloads,
            self.webhooks,
            settings.webhook_secrets,
            clock,
        )
        self.operations = Operations(
            catalogue,
            queues,
            self.estimates,
            blobs,
            self.counters,
            MinuteSums(blobs, self.counters, clock, is_enabled=settings.has_minute_sums),
            heartbeats,
            Tenants(catalogue, blobs, self.limits, clock),
            clock,
            has_minute_sums=settings.has_minute_sums,
        )

    async def _has_ended(self, job_id: str) -> bool:
        """Return whether an outcome of a job is recorded. May raise Unavailable."""
        if is_line(job_id):
            return not await self.batch_lines.is_wanted(job_id)
        return await self.job_ends.has_ended(self.gate.durable, job_id)

    @property
    def longest_deadline(self) -> timedelta:
        """The longest time from the submit to the deadline that a caller can request."""
        return timedelta(
            seconds=max(model.max_deadline_seconds for model in self.catalogue.values())
        )

    @property
    def retention(self) -> timedelta:
        """How long the gateway stores a job: RETENTION_HOURS after the longest deadline."""
        return timedelta(hours=self.settings.retention_hours) + self.longest_deadline

    @property
    def claim_lifetime(self) -> timedelta:
        """How long an idempotency key is valid after its first use."""
        return timedelta(hours=min(LIFETIME_HOURS, self.settings.retention_hours))

    @classmethod
    def of(cls, settings: GatewaySettings) -> "Services":
        """Build the components with connections to Azure, which are opened at their first use."""
        payloads, blobs, links = make_storage(settings.payload_storage, settings.payload_public_url)
        resolver = Resolver()
        catalogue = Catalogue.load(settings.catalogue_path)
        with_fallback = [model.name for model in catalogue.values() if model.fallback]
        if with_fallback and not settings.has_heartbeats:
            raise InvalidSetting(
                f"HEARTBEATS: this setting must be true, because the model {with_fallback[0]} has "
                "a fallback in the catalogue: the heartbeats show whether a version has a worker"
            )
        url = settings.stream_redis_url
        return cls(
            settings=settings,
            catalogue=catalogue,
            queues=make_queues(settings.broker, catalogue, settings.service_bus_admin_url),
            payloads=payloads,
            blobs=blobs,
            links=links,
            tokens=ReplyTokens(settings.reply_token_keys, settings.gateway_base_url),
            webhooks=WebhookSender(settings.guard, resolver),
            tracing=GatewayTracing(
                make_tracer_provider(settings.trace_exporters), settings.broker.kind
            ),
            resolver=resolver,
            stream_store=_make_redis_logs(url) if url else None,
        )


def _make_redis_logs(url: str) -> StreamLogs:
    from gateway.streams.redis_logs import RedisLogs  # noqa: PLC0415  only where needed

    return RedisLogs(url)
