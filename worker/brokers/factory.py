"""Create the adapter of the broker that the settings name."""

from contract.catalogue import Catalogue
from contract.errors import InvalidSetting
from contract.settings import BrokerEndpoint, BrokerKind
from worker.brokers.port import MessageBroker


def make_broker(endpoint: BrokerEndpoint, catalogue: Catalogue) -> MessageBroker:
    """Return the broker's adapter, without connecting. Raises InvalidSetting.

    Only the library of this broker is imported. The catalogue names the queues.
    """
    if endpoint.service_bus is not None:
        from worker.brokers.servicebus.broker import ServiceBus  # noqa: PLC0415  only where used

        return ServiceBus(endpoint.service_bus)
    if endpoint.kind is BrokerKind.RABBITMQ:
        from worker.brokers.rabbitmq.broker import RabbitMq  # noqa: PLC0415  only where used

        return RabbitMq(endpoint.url, catalogue)
    if endpoint.kind is BrokerKind.REDIS:
        from worker.brokers.redis.broker import RedisBroker  # noqa: PLC0415  only where used

        return RedisBroker(endpoint.url)
    raise InvalidSetting(f"BROKER_URL: this worker has no adapter for {endpoint.kind}")
