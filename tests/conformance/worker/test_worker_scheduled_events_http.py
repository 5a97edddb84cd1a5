"""Test that the worker reads scheduled events from a metadata service over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.conformance.worker.worker_metadata import MACHINE, Metadata, run_metadata
from worker.processes.scheduled_events import ScheduledEvents
from worker.settings import ScheduledEventMode, ScheduledEventSettings

FAR = "Mon, 01 Jan 2029 00:00:00 GMT"


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with run_metadata() as running:
        yield running


class EventPoller:
    """Polls scheduled events as a worker does, and records why each shutdown was requested."""

    def __init__(
        self,
        address: str,
        mode: ScheduledEventMode = ScheduledEventMode.ACKNOWLEDGE,
        machine: str = "",
    ) -> None:
        self.reasons: list[str] = []
        now = datetime(2028, 1, 1, tzinfo=UTC)
        settings = ScheduledEventSettings(mode, address, machine)
        self.events = ScheduledEvents(settings, self.reasons.append, lambda: now)

    def poll_for_shutdown(self) -> bool:
        self.events.poll()
        return bool(self.reasons)


def test_only_the_end_of_this_machine_shuts_down(metadata: Metadata) -> None:
    poller = EventPoller(metadata.address)
    assert poller.events.poll() == 1.0
    metadata.announce("Preempt", "aks-gpu-12345-vmss_8")
    metadata.announce("Freeze")
    metadata.announce("Redeploy", not_before=FAR)
    assert not poller.poll_for_shutdown()
    metadata.announce("Preempt", MACHINE.upper(), not_before="Sat, 01 Jan 2028 00:00:30 GMT")
    assert poller.poll_for_shutdown()
    assert poller.reasons == ["Azure has scheduled the event Preempt for this machine"]


def test_reboot_must_name_the_machine(metadata: Metadata) -> None:
    metadata.announce("Reboot", "box")
    assert not EventPoller(metadata.address).poll_for_shutdown()
    assert EventPoller(metadata.address, machine="box").poll_for_shutdown()


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503])
def test_polling_survives_error_responses(
    metadata: Metadata, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.announce("Terminate")
    metadata.statuses = [status] * 3
    poller = EventPoller(metadata.address)
    with caplog.at_level(logging.WARNING):
        assert [poller.poll_for_shutdown() for _ in range(4)] == [False, False, False, True]
    assert len([line for line in caplog.messages if "does not answer" in line]) == 1


def test_polling_survives_an_unreachable_service(metadata: Metadata) -> None:
    poller = EventPoller("http://127.0.0.1:9")
    assert not poller.poll_for_shutdown()
    assert 0 < poller.events.poll() <= 5


def test_other_machines_events_are_left(metadata: Metadata) -> None:
    own = metadata.announce("Preempt")
    metadata.announce("Reboot", MACHINE, "aks-gpu-12345-vmss_8")
    poller = EventPoller(metadata.address)
    assert poller.poll_for_shutdown()
    assert metadata.started == []
    poller.events.acknowledge()
    assert metadata.started == [own]


def test_mode_drain_does_not_acknowledge(metadata: Metadata) -> None:
    poller = EventPoller(metadata.address, ScheduledEventMode.DRAIN)
    metadata.announce("Preempt")
    assert poller.poll_for_shutdown()
    poller.events.acknowledge()
    assert metadata.started == []


def test_failed_acknowledgement_is_no_error(metadata: Metadata) -> None:
    poller = EventPoller(metadata.address)
    metadata.announce("Preempt")
    assert poller.poll_for_shutdown()
    metadata.statuses = [500]
    poller.events.acknowledge()
    assert metadata.started == []


def test_repeated_event_is_logged_once(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.announce("Freeze")
    poller = EventPoller(metadata.address)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not poller.poll_for_shutdown()
    assert caplog.messages == [
        "Azure has scheduled the event Freeze for this machine; it may begin at any time"
    ]
