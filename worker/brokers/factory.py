"""Create the adapter of the broker that the settings name."""

from contract.errors import InvalidSetting
from contract.settings import BrokerEndpoint
from worker.brokers.port import MessageBroker


def make_broker(endpoint: BrokerEndpoint) -> MessageBroker:
    """Return the broker's adapter, without connecting. Raises InvalidSetting.

    Only the library of this broker is imported.
    """
    if endpoint.service_bus is not None:
        from worker.brokers.servicebus.broker import ServiceBus  # noqa: PLC0415  only where used

        return ServiceBus(endpoint.service_bus)
    raise InvalidSetting(f"BROKER_URL: this worker has no adapter for {endpoint.kind}")
