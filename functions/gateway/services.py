"""What every request shares: made once a process, given to the API, the activity and triggers."""

from dataclasses import dataclass, field

from contract.catalogue import Catalogue
from gateway.clock import Clock, utc_now
from gateway.payloads import BlobPayloads, Payloads
from gateway.queues import Queues, ServiceBusQueues
from gateway.replies import ReplyTokens
from gateway.settings import Settings
from gateway.waiting import Waiters


@dataclass(frozen=True, slots=True)
class Services:
    """The gateway's collaborators. Connections are opened when first needed, then kept."""

    settings: Settings
    catalogue: Catalogue
    queues: Queues
    payloads: Payloads
    tokens: ReplyTokens
    clock: Clock = utc_now
    waiters: Waiters = field(default_factory=Waiters)

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """The real ones; CatalogueError where the catalogue cannot be used."""
        return cls(
            settings=settings,
            catalogue=Catalogue.load(settings.catalogue_path),
            queues=ServiceBusQueues(settings.service_bus),
            payloads=BlobPayloads(settings.payload_storage),
            tokens=ReplyTokens(settings.reply_token_keys, settings.gateway_base_url),
        )
