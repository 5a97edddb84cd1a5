"""Test that messages of a dead worker return to the queue before their locks expire."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage

from contract.names import PROPERTY_WORKER_DEATH
from contract.settings import AzureEndpoint
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    LocalServices,
    job_id,
    message,
    receive,
    received,
    submit,
    take,
    wait_until,
)
from worker.brokers.port import LockedMessage
from worker.brokers.servicebus.link import QueueLink
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, Settlement
from worker.processes.history import DeliveryHistory, LockState
from worker.processes.lock_journal import LockJournals, WorkerDeath

# Locks of this queue last 10 s, and each receive call of these tests ends after 5 s.
QUEUE = "noop"


class Links:
    """The links of several workers to one queue. All lock journals are in the same folder."""

    def __init__(self, services: LocalServices, folder: Path) -> None:
        self.services = services
        self._folder = folder
        self._open: list[QueueLink] = []

    def start(self, death: WorkerDeath | None = None) -> QueueLink:
        endpoint = AzureEndpoint(self.services.service_bus_url)
        link = QueueLink(endpoint, QUEUE, journals=LockJournals(self._folder, death=death))
        self._open.append(link)
        link.connect()
        return link

    def die(self, link: QueueLink) -> None:
        """Close a link without settling its messages, as if the worker's process had died."""
        journal = link.journal
        assert journal is not None
        link.disconnect()
        journal.close()
        self._open.remove(link)

    def close(self) -> None:
        for link in [*self._open]:
            self.die(link)


def socket_of(link: QueueLink) -> socket.socket:
    receiver: Any = link._connection
    found: socket.socket = receiver._handler._connection._transport.sock
    return found


def noted(link: QueueLink) -> set[bytes]:
    assert link.journal is not None
    return set(link.journal.tokens)


def tokens(deliveries: list[LockedMessage]) -> set[bytes]:
    return {delivery.token for delivery in deliveries}


@pytest.fixture
def links(services: LocalServices, tmp_path: Path) -> Iterator[Links]:
    links = Links(services, tmp_path / "locks")
    yield links
    links.close()


def send(services: LocalServices, count: int) -> list[str]:
    names = [job_id() for _ in range(count)]
    services.send(QUEUE, *(ServiceBusMessage(b"x", message_id=name) for name in names))
    return names


def test_next_worker_gets_the_messages_immediately(links: Links) -> None:
    names = send(links.services, 4)
    first = links.start()
    deliveries = received(first, 4)
    assert noted(first) == tokens(deliveries)
    first.settle_message(deliveries[0], Settlement.COMPLETE, "", "")
    links.die(first)

    second = links.start()
    again = received(second, 3)
    assert sorted(each.message_id for each in again) == sorted(names[1:])
    assert {each.delivery_count for each in again} == {1}, "the delivery counts as failed"
    assert noted(second) == tokens(again)
    assert second.complete_messages(again) == [True] * 3
    assert noted(second) == set()


@pytest.mark.parametrize(
    ("pid", "text"),
    [
        pytest.param(os.getpid(), "the worker process w-1 was killed by SIGSEGV", id="this-one"),
        pytest.param(1, None, id="another"),
    ],
)
def test_redelivery_says_how_the_worker_died(links: Links, pid: int, text: str | None) -> None:
    send(links.services, 2)
    first = links.start()
    received(first, 2)[1].note_state(LockState.RUNNING_ALONE)
    links.die(first)
    second = links.start(WorkerDeath(pid, "w-1", "was killed by SIGSEGV", is_crash=True))
    waited, ran = sorted(received(second, 2), key=lambda each: each.sequence_number)
    assert [each.properties.get(PROPERTY_WORKER_DEATH) for each in (waited, ran)] == [None, text]
    assert waited.history == DeliveryHistory(waiting_count=1)
    alone = {"failed_count": 1} if text else {"killed_count": 1}
    assert ran.history == DeliveryHistory(running_count=1, **alone)
    second.complete_messages([waited, ran])


def test_death_counts_after_the_lock_expired(links: Links) -> None:
    send(links.services, 1)
    first = links.start()
    (delivery,) = received(first, 1)
    delivery.note_state(LockState.RUNNING_ALONE)
    # As if the process was frozen for longer than the lock lasts.
    wait_until(lambda: delivery.lock_seconds(utc_now()) < -0.5, "the lock has expired")
    links.die(first)
    second = links.start(WorkerDeath(os.getpid(), "w-1", "was frozen", is_crash=True))
    (again,) = received(second, 1)
    assert again.history == DeliveryHistory(failed_count=1, running_count=1)
    second.complete_messages([again])


def test_abandoned_messages_history_is_received(links: Links) -> None:
    send(links.services, 1)
    link = links.start()
    history = DeliveryHistory(failed_count=1)
    for count in (1, 2):
        (delivery,) = received(link, 1)
        # Without a history, the message keeps the one that it has.
        link.settle_message(delivery, Settlement.ABANDON, "", "", history if count == 1 else None)
        assert noted(link) == set()
        (delivery,) = received(link, 1)
        assert (delivery.delivery_count, delivery.history) == (count, history)
        link.settle_message(delivery, Settlement.RELEASE, "", "")
    link.complete_messages(received(link, 1))


@pytest.mark.parametrize("how", Settlement)
def test_each_settlement_removes_the_token(links: Links, how: Settlement) -> None:
    send(links.services, 1)
    link = links.start()
    (delivery,) = received(link, 1)
    assert noted(link) == {delivery.token}
    link.settle_message(delivery, how, "", "")
    assert noted(link) == set()
    if how is Settlement.LEAVE:
        link.settle_message(delivery, Settlement.COMPLETE, "", "")
    elif how in {Settlement.ABANDON, Settlement.RELEASE}:
        link.complete_messages(received(link, 1))


def test_settled_message_is_not_redelivered(links: Links) -> None:
    send(links.services, 2)
    first = links.start()
    done, left = received(first, 2)
    first.settle_message(done, Settlement.COMPLETE, "", "")
    assert first.journal is not None
    # The process was killed between the settlement and the removal of the note.
    first.journal.note_arrival(done.token)
    links.die(first)
    second = links.start()
    (again,) = received(second, 1)
    assert again.message_id == left.message_id
    second.complete_messages([again])


# The SDK does not close the socket of a broken connection itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broken_connection_redelivers(links: Links) -> None:
    link = links.start()

    def break_connection() -> None:
        wait_until(lambda: bool(link.arrived), "a message has arrived")
        socket_of(link).shutdown(socket.SHUT_RDWR)

    with ThreadPoolExecutor(1) as threads:
        breaking = threads.submit(break_connection)
        (name,) = send(links.services, 1)
        # After the first message, the call waits for a second message.
        with pytest.raises(BrokerUnavailable):
            link.receive_messages(2, 5.0)
        breaking.result()
    link.connect()
    (again,) = received(link, 1)
    assert again.message_id == name
    link.complete_messages([again])
    gc.collect()


def test_late_message_is_not_noted(links: Links) -> None:
    link = links.start()
    assert link.receive_messages(1, 0.1) == []
    # The link has credit, so the broker sends this message to the link.
    send(links.services, 1)
    link.stop_receiving()
    assert noted(link) == set()
    (again,) = received(link, 1)
    assert again.delivery_count == 0
    link.complete_messages([again])


def test_missing_folder_means_no_journal(
    services: LocalServices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    journals = LockJournals(tmp_path / "file" / "locks")
    link = QueueLink(AzureEndpoint(services.service_bus_url), QUEUE, journals=journals)
    link.connect()
    assert "the lock journal cannot be written" in caplog.text
    send(services, 1)
    assert link.complete_messages(received(link, 1)) == [True]
    link.disconnect()


@pytest.mark.timeout(90)
def test_killed_workers_jobs_come_before_locks_expire(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    folder = str(tmp_path / "locks")
    gate, running = tmp_path / "gate", tmp_path / "running"
    task = {"do": "wait", "running": str(running), "gate": str(gate)}
    first = start_worker("patient", WORKER_LOCK_FOLDER=folder)
    (identity,) = submit(services, gateway, "patient", task)
    wait_until(running.exists, "the job runs")
    first.kill()
    gate.touch()
    start_worker("patient", WORKER_LOCK_FOLDER=folder)
    # The lock lasts five minutes.
    assert gateway.taken(identity).attempt == 2
    services.wait_until_empty("patient")


@pytest.mark.timeout(90)
def test_no_message_arrives_while_a_suspect_runs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate, running = tmp_path / "gate", tmp_path / "running"
    task = {"do": "wait", "running": str(running), "gate": str(gate)}
    suspect, neighbour = job_id(), job_id()
    killer = message(gateway, suspect, "single", task)
    assert killer.application_properties is not None
    killer.application_properties.update(DeliveryHistory(running_count=1).to_properties())
    services.send("single", killer)
    with (
        services.receiver("single") as receiver,
        services.client.get_queue_sender("patient") as sender,
    ):
        (held,) = receive(receiver, 1)
        # The idle worker gives the broker credit for messages of both models.
        start_worker("single,patient")
        receiver.abandon_message(held)
        wait_until(running.exists, "the suspect runs")
        sender.send_messages(message(gateway, neighbour, "patient", {"do": "x"}))
    with services.receiver("patient") as receiver:
        (free,) = take(receiver, 1)
    assert (free.message_id, free.delivery_count) == (neighbour, 0)
    gate.touch()
    assert gateway.taken(suspect).attempt == 2
