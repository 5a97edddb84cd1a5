"""Create the adapter of the broker that the settings name."""

from typing import Final

from contract.catalogue import Catalogue
from contract.errors import InvalidSetting
from contract.queues import names
from contract.settings import BrokerEndpoint, BrokerKind
from gateway.brokers.port import Queues

# How many senders, each with its own connection, are opened before the first job.
_MAX_EARLY_QUEUES: Final = 10


def make_queues(endpoint: BrokerEndpoint, catalogue: Catalogue, admin_url: str | None) -> Queues:
    """Return the broker's adapter, without connecting. Only the library of this broker is imported.

    The catalogue names the queues. `admin_url` is for an emulator of Service Bus. Raises
    InvalidSetting.
    """
    if endpoint.service_bus is not None:
        from gateway.brokers.servicebus import ServiceBusQueues  # noqa: PLC0415 - only where used

        early_queues = [model.queue for model in catalogue.values()][:_MAX_EARLY_QUEUES]
        return ServiceBusQueues(endpoint.service_bus, admin_url, early_queues)
    if endpoint.kind is BrokerKind.RABBITMQ:
        from gateway.brokers.rabbitmq import RabbitQueues  # noqa: PLC0415 - only where used

        return RabbitQueues(endpoint.url, catalogue)
    if endpoint.kind is BrokerKind.REDIS:
        from gateway.brokers.redis_streams import RedisQueues  # noqa: PLC0415 - only where used

        return RedisQueues(endpoint.url, names(catalogue))
    raise InvalidSetting(f"BROKER_URL: this gateway has no adapter for {endpoint.kind}")
