"""Test that the worker reads scheduled events from a metadata service over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.conformance.worker.worker_metadata import MACHINE, Metadata, run_metadata
from worker.scheduled_events import ScheduledEvents
from worker.settings import ScheduledEventMode, ScheduledEventSettings

FAR = "Mon, 01 Jan 2029 00:00:00 GMT"


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with run_metadata() as running:
        yield running


class Listener:
    """Polls scheduled events, and records the shutdowns that these events request."""

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

    def hears(self) -> bool:
        self.events.turn()
        return bool(self.reasons)


def test_only_an_event_that_soon_ends_this_machine_causes_a_shutdown(
    metadata: Metadata,
) -> None:
    listener = Listener(metadata.address)
    assert listener.events.turn() == 1.0
    metadata.announce("Preempt", "aks-gpu-12345-vmss_8")
    metadata.announce("Freeze")
    metadata.announce("Redeploy", not_before=FAR)
    assert not listener.hears()
    metadata.announce("Preempt", MACHINE.upper(), not_before="Sat, 01 Jan 2028 00:00:30 GMT")
    assert listener.hears()
    assert listener.reasons == ["Azure has scheduled the event Preempt for this machine"]


def test_scheduled_events_are_compared_with_the_configured_machine_name(metadata: Metadata) -> None:
    metadata.announce("Reboot", "box")
    assert not Listener(metadata.address).hears()
    assert Listener(metadata.address, machine="box").hears()


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503])
def test_polling_continues_after_error_responses_of_the_metadata_service(
    metadata: Metadata, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.announce("Terminate")
    metadata.statuses = [status] * 3
    listener = Listener(metadata.address)
    with caplog.at_level(logging.WARNING):
        assert [listener.hears() for _ in range(4)] == [False, False, False, True]
    assert len([line for line in caplog.messages if "does not answer" in line]) == 1


def test_polling_continues_after_the_metadata_service_was_unreachable(metadata: Metadata) -> None:
    listener = Listener("http://127.0.0.1:9")
    assert not listener.hears()
    assert 0 < listener.events.turn() <= 5


def test_scheduled_events_that_affect_other_machines_are_not_acknowledged(
    metadata: Metadata,
) -> None:
    own = metadata.announce("Preempt")
    metadata.announce("Reboot", MACHINE, "aks-gpu-12345-vmss_8")
    listener = Listener(metadata.address)
    assert listener.hears()
    assert metadata.started == []
    listener.events.acknowledge()
    assert metadata.started == [own]


def test_scheduled_events_are_not_acknowledged_if_the_scheduled_event_mode_is_drain(
    metadata: Metadata,
) -> None:
    listener = Listener(metadata.address, ScheduledEventMode.DRAIN)
    metadata.announce("Preempt")
    assert listener.hears()
    listener.events.acknowledge()
    assert metadata.started == []


def test_a_failed_acknowledgement_of_a_scheduled_event_raises_no_error(metadata: Metadata) -> None:
    listener = Listener(metadata.address)
    metadata.announce("Preempt")
    assert listener.hears()
    metadata.statuses = [500]
    listener.events.acknowledge()
    assert metadata.started == []


def test_a_scheduled_event_is_logged_only_once(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.announce("Freeze")
    listener = Listener(metadata.address)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not listener.hears()
    assert caplog.messages == [
        "Azure has scheduled the event Freeze for this machine; it may begin at any time"
    ]
