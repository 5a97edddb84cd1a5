"""Test that a worker keeps its AMQP link if Service Bus refuses to renew a lock (throttling)."""

import httpx
import pytest
from azure.servicebus import ServiceBusMessage

from contract.settings import AzureEndpoint
from tests.conformance.worker.worker_services import (
    PATIENT_QUEUE,
    LocalServices,
    job_id,
    received,
)
from worker.brokers.servicebus.link import QueueLink
from worker.errors import BrokerUnavailable, Settlement


def throttle(services: LocalServices, share: float) -> None:
    url = services.service_bus.probe.replace("/health", "/$emulator/faults")
    httpx.put(url, json={"throttled_share": share}).raise_for_status()


def test_throttled_renewal_keeps_the_link(services: LocalServices) -> None:
    link = QueueLink(AzureEndpoint(services.service_bus_url), PATIENT_QUEUE)
    link.connect()
    try:
        services.send(PATIENT_QUEUE, ServiceBusMessage(b"x", message_id=job_id()))
        (delivery,) = received(link, 1)
        # The first renewal opens the management link, which is throttled too.
        before = link.renew_lock(delivery, 5.0)
        throttle(services, 1.0)
        with pytest.raises(BrokerUnavailable, match="50009"):
            link.renew_lock(delivery, 5.0)
        assert link.is_connected
        throttle(services, 0.0)
        assert link.renew_lock(delivery, 5.0) >= before
        link.settle_message(delivery, Settlement.COMPLETE, "", "")
    finally:
        throttle(services, 0.0)
        link.disconnect()
