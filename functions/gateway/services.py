"""The components of the gateway, which are built once in each process."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from contract.catalogue import Catalogue
from contract.errors import InvalidSetting
from contract.guard import Resolver
from contract.queues import names
from gateway.bodies import LargeBodies
from gateway.clock import Clock, utc_now
from gateway.dead_letters.bulk import LetterActions
from gateway.dead_letters.redrive import Redriver
from gateway.dead_letters.trigger import DeadLetterTrigger
from gateway.jobs.activities import Conclude, Enqueue
from gateway.jobs.children import JobCancellation
from gateway.jobs.delayed_start import DelayedStarts
from gateway.jobs.lifecycle import Jobs, OutcomeStore, Waiters
from gateway.jobs.progress import ProgressStore
from gateway.jobs.search import JobSearch
from gateway.operations.overview import Operations
from gateway.operations.sums import MinuteSums
from gateway.queues.client import Queues, ServiceBusQueues
from gateway.queues.estimates import WaitEstimates
from gateway.queues.model_states import ModelStates
from gateway.queues.requests import RequestSender
from gateway.queues.workers import WorkerHeartbeats
from gateway.rates import RateLimiter
from gateway.reply_tokens import ReplyTokens
from gateway.settings import GatewaySettings
from gateway.storage.blobs import Blobs, ContainerBlobs, PayloadContainer
from gateway.storage.payloads import (
    BlobPayloadStore,
    PayloadLinks,
    PayloadStore,
    SignedPayloadLinks,
)
from gateway.submission.children import ChildJobs
from gateway.submission.create import JobCreator
from gateway.submission.idempotency import LIFETIME_HOURS, IdempotencyKeys
from gateway.submission.versions import VersionChooser
from gateway.telemetry import GatewayTracing, JobCounters, make_tracer_provider
from gateway.webhooks.activities import WebhookActivities
from gateway.webhooks.sender import HttpWebhookSender, WebhookSender

_MAX_EARLY_QUEUES: Final = 10
"""The largest number of queues whose senders are opened before the first job.

Each sender has its own connection.
"""


@dataclass(frozen=True)
class Services:
    """The components of the gateway.

    The arguments of the constructor are the settings and the connections to other services. Tests
    pass replacements. All other components are built from the arguments. Routes and triggers pass
    to each function only the components that the function needs.
    """

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

    bodies: LargeBodies = field(init=False)
    waiters: Waiters = field(init=False)
    starts: DelayedStarts = field(init=False)
    outcomes: OutcomeStore = field(init=False)
    progress: ProgressStore = field(init=False)
    estimates: WaitEstimates = field(init=False)
    counters: JobCounters = field(init=False)
    operations: Operations = field(init=False)
    jobs: Jobs = field(init=False)
    search: JobSearch = field(init=False)
    enqueue: Enqueue = field(init=False)
    conclude: Conclude = field(init=False)
    creator: JobCreator = field(init=False)
    children: ChildJobs = field(init=False)
    cancellation: JobCancellation = field(init=False)
    idempotency: IdempotencyKeys = field(init=False)
    dead_letters: DeadLetterTrigger = field(init=False)
    letter_actions: LetterActions = field(init=False)
    webhook_activities: WebhookActivities = field(init=False)

    def __post_init__(self) -> None:
        """Build the components that are not arguments of the constructor."""
        waiters = Waiters()
        counters = JobCounters(self.clock)
        outcomes = OutcomeStore(self.blobs, counters)
        progress = ProgressStore(self.blobs, self.catalogue)
        heartbeats = WorkerHeartbeats(
            self.blobs, self.clock, is_enabled=self.settings.has_heartbeats
        )
        states = ModelStates(heartbeats, self.clock)
        estimates = WaitEstimates(self.queues, self.clock, states)
        starts = DelayedStarts(outcomes, waiters)
        jobs = Jobs(outcomes, progress, waiters, starts, self.clock)
        requests = RequestSender(self.catalogue, self.queues, self.tokens, self.tracing, self.clock)
        creator = JobCreator(
            settings=self.settings,
            resolver=self.resolver,
            estimates=estimates,
            counters=counters,
            payloads=self.payloads,
            blobs=self.blobs,
            jobs=jobs,
            waiters=waiters,
            starts=starts,
            requests=requests,
            versions=VersionChooser(self.catalogue, states),
            clock=self.clock,
            url_inputs=RateLimiter(self.clock),
        )
        redriver = Redriver(
            self.blobs, self.queues, jobs, self.tokens, waiters, estimates, counters, self.clock
        )
        operations = Operations(
            self.catalogue,
            self.queues,
            estimates,
            self.blobs,
            counters,
            MinuteSums(self.blobs, counters, self.clock, is_enabled=self.settings.has_minute_sums),
            heartbeats,
            self.clock,
            has_minute_sums=self.settings.has_minute_sums,
        )
        self._set(
            operations=operations,
            counters=counters,
            bodies=LargeBodies(self.settings.body_memory_bytes),
            waiters=waiters,
            starts=starts,
            outcomes=outcomes,
            progress=progress,
            estimates=estimates,
            jobs=jobs,
            search=JobSearch(jobs, progress),
            enqueue=Enqueue(requests),
            conclude=Conclude(outcomes, progress, waiters),
            creator=creator,
            children=ChildJobs(creator, jobs, waiters, self.blobs),
            cancellation=JobCancellation(jobs, progress, self.blobs, self.clock),
            idempotency=IdempotencyKeys(
                self.blobs, jobs, creator, waiters, self.clock, self.claim_lifetime
            ),
            dead_letters=DeadLetterTrigger(
                self.blobs, self.queues, jobs, self.tokens, names(self.catalogue), self.clock
            ),
            letter_actions=LetterActions(self.blobs, redriver, self.clock),
            webhook_activities=WebhookActivities(
                jobs,
                progress,
                self.payloads,
                self.webhooks,
                self.settings.webhook_secrets,
                self.clock,
            ),
        )

    @property
    def longest_deadline(self) -> timedelta:
        """The longest time from the submit to the deadline that a caller can request."""
        return timedelta(
            seconds=max(model.max_deadline_seconds for model in self.catalogue.values())
        )

    @property
    def retention(self) -> timedelta:
        """How long the gateway stores a job after the job's creation.

        This time is the sum of the longest deadline and RETENTION_HOURS.
        """
        return timedelta(hours=self.settings.retention_hours) + self.longest_deadline

    @property
    def claim_lifetime(self) -> timedelta:
        """How long an idempotency key is valid after its first use."""
        return timedelta(hours=min(LIFETIME_HOURS, self.settings.retention_hours))

    @classmethod
    def of(cls, settings: GatewaySettings) -> "Services":
        """Build the components with connections to Azure.

        Each connection is opened at its first use, and then stays open. Raises CatalogueError if
        the catalogue is not valid, or InvalidSetting if a setting is wrong.
        """
        container = PayloadContainer(settings.payload_storage)
        resolver = Resolver()
        catalogue = Catalogue.load(settings.catalogue_path)
        with_fallback = [model.name for model in catalogue.values() if model.fallback]
        if with_fallback and not settings.has_heartbeats:
            raise InvalidSetting(
                f"HEARTBEATS: this setting must be true, because the model {with_fallback[0]} has "
                "a fallback in the catalogue: the heartbeats show whether a version has a worker"
            )
        early_queues = [model.queue for model in catalogue.values()][:_MAX_EARLY_QUEUES]
        return cls(
            settings=settings,
            catalogue=catalogue,
            queues=ServiceBusQueues(
                settings.service_bus, settings.service_bus_admin_url, early_queues
            ),
            payloads=BlobPayloadStore(container),
            blobs=ContainerBlobs(container),
            links=SignedPayloadLinks(container, settings.payload_public_url),
            tokens=ReplyTokens(settings.reply_token_keys, settings.gateway_base_url),
            webhooks=HttpWebhookSender(settings.guard, resolver),
            tracing=GatewayTracing(make_tracer_provider(settings.trace_exporters)),
            resolver=resolver,
        )

    def _set(self, **parts: object) -> None:
        for name, part in parts.items():
            object.__setattr__(self, name, part)
