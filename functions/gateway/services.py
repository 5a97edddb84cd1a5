"""What every request shares: made once a process, given to the API, the activity and triggers."""

from dataclasses import dataclass, field

from contract.catalogue import Catalogue
from gateway.access.reply_tokens import ReplyTokens
from gateway.clock import Clock, utc_now
from gateway.exporting import tracer_provider
from gateway.jobs.waiting import Waiters
from gateway.queueing.backlog import Backlog
from gateway.queueing.queues import Queues, ServiceBusQueues
from gateway.settings import Settings
from gateway.storage.blobs import Blobs, ContainerBlobs
from gateway.storage.container import Container
from gateway.storage.links import Links, SignedLinks
from gateway.storage.payloads import BlobPayloads, Payloads
from gateway.tracing import Tracing
from gateway.webhooks.sending import HttpSender, Sender


@dataclass(frozen=True, slots=True)
class Services:
    """The gateway's collaborators. Connections are opened when first needed, then kept."""

    settings: Settings
    catalogue: Catalogue
    queues: Queues
    payloads: Payloads
    blobs: Blobs
    links: Links
    tokens: ReplyTokens
    webhooks: Sender
    clock: Clock = utc_now
    tracing: Tracing = field(default_factory=Tracing)
    waiters: Waiters = field(default_factory=Waiters)
    backlog: Backlog = field(init=False)

    def __post_init__(self) -> None:
        """Watch the queues that these services have."""
        object.__setattr__(self, "backlog", Backlog(self.queues, self.clock))

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """The real ones; CatalogueError where the catalogue cannot be used."""
        container = Container(settings.payload_storage)
        return cls(
            settings=settings,
            catalogue=Catalogue.load(settings.catalogue_path),
            queues=ServiceBusQueues(settings.service_bus, settings.service_bus_admin_url),
            payloads=BlobPayloads(container),
            blobs=ContainerBlobs(container),
            links=SignedLinks(container, settings.payload_public_url),
            tokens=ReplyTokens(settings.reply_token_keys, settings.gateway_base_url),
            webhooks=HttpSender(settings.guard),
            tracing=Tracing(tracer_provider(settings.trace_exporters)),
        )
