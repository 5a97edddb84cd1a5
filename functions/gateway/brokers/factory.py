"""Create the adapter of the broker that the settings name."""

from collections.abc import Collection

from contract.errors import InvalidSetting
from contract.settings import BrokerEndpoint
from gateway.brokers.port import Queues


def make_queues(
    endpoint: BrokerEndpoint, admin_url: str | None, early_queues: Collection[str]
) -> Queues:
    """Return the broker's adapter, without connecting. Only the library of this broker is imported.

    `admin_url` is for an emulator of Service Bus. The adapter prepares to send to `early_queues`
    when it is first checked. Raises InvalidSetting.
    """
    if endpoint.service_bus is not None:
        from gateway.brokers.servicebus import ServiceBusQueues  # noqa: PLC0415 - only where used

        return ServiceBusQueues(endpoint.service_bus, admin_url, early_queues)
    raise InvalidSetting(f"BROKER_URL: this gateway has no adapter for {endpoint.kind}")
