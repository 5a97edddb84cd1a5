"""Test that Microsoft's client can complete several messages together on the emulator."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage

from contract.settings import AzureEndpoint
from tests.conformance.worker.worker_services import (
    PATIENT_QUEUE,
    LocalServices,
    job_id,
    received,
    run_services,
)
from worker.brokers.servicebus.link import QueueLink
from worker.brokers.servicebus.sender import QueueSender
from worker.errors import BrokerUnavailable, Settlement

QUEUE = "noop"


def test_each_message_succeeds_or_fails(services: LocalServices) -> None:
    link = QueueLink(AzureEndpoint(services.service_bus_url), QUEUE)
    other = QueueLink(AzureEndpoint(services.service_bus_url), QUEUE)
    link.connect()
    try:
        services.send(QUEUE, *(ServiceBusMessage(b"x", message_id=job_id()) for _ in range(7)))
        deliveries = received(link, 6)
        other.connect()
        (of_another,) = received(other, 1)
        # Complete the messages out of order, with one of another link and one settled before.
        gone = deliveries.pop(2)
        other.renew_lock(gone, 5.0)
        link.settle_message(gone, Settlement.COMPLETE, "", "")
        # Another link settles a message in the middle of the range, as after a lost lock.
        other.settle_message(deliveries[1], Settlement.COMPLETE, "", "")
        deliveries[1].handle._settled = False
        asked = [*reversed(deliveries), of_another]
        assert link.complete_messages(asked) == [True, True, True, False, True, True]
        assert link.complete_messages([gone, deliveries[0]]) == [False, False]
        assert not link.receive_messages(1, 0.1), "a message was redelivered"
        assert link.is_connected
    finally:
        link.disconnect()
        other.disconnect()


def test_many_threads_replies_arrive(services: LocalServices) -> None:

    sender = QueueSender(AzureEndpoint(services.service_bus_url), QUEUE)
    # Together the replies exceed the size limit of one message.
    bodies = {job_id(): bytes([number]) * 60_000 for number in range(12)}
    with ThreadPoolExecutor(12) as threads:
        for future in [
            threads.submit(sender.send_reply, body, name) for name, body in bodies.items()
        ]:
            future.result(30)
    link = QueueLink(AzureEndpoint(services.service_bus_url), QUEUE)
    link.connect()
    try:
        deliveries = received(link, 12)
        assert {each.message_id: each.body for each in deliveries} == bodies
        assert link.complete_messages(deliveries) == [True] * 12
    finally:
        link.disconnect()


def test_refused_batch_is_completed_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = "tests.conformance.worker.servicebus_without_ranges"
    with run_services(tmp_path, service_bus_module=module) as services:
        link = QueueLink(AzureEndpoint(services.service_bus_url), PATIENT_QUEUE)
        link.connect()
        try:
            ids = [job_id() for _ in range(12)]
            services.send(PATIENT_QUEUE, *(ServiceBusMessage(b"x", message_id=i) for i in ids))
            deliveries = received(link, 6)
            with pytest.raises(BrokerUnavailable):
                link.complete_messages(deliveries)
            assert (
                "in the next 100 calls, the worker completes each message separately" in caplog.text
            )
            # The messages are still locked, and are completed over the next connection.
            link.connect()
            assert link.complete_messages(deliveries) == [True] * 6
            assert link.complete_messages(received(link, 6)) == [True] * 6
            assert link.is_connected
            assert not services.waiting(PATIENT_QUEUE)
        finally:
            link.disconnect()
