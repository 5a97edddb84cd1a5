"""Test how Azure's scheduled events are read, and which of them stop this virtual machine."""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.processes.scheduled_events import ScheduledEvent, UnreadableEvents, read_events

NOW = datetime(2026, 4, 11, 22, 0, tzinfo=UTC)

# The example in Microsoft's documentation.
DOCUMENT = b"""{
    "DocumentIncarnation":  2,
    "Events":  [{
        "EventId":  "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
        "EventStatus":  "Scheduled",
        "EventType":  "Freeze",
        "ResourceType":  "VirtualMachine",
        "Resources":  ["WestNO_0", "WestNO_1"],
        "NotBefore":  "Mon, 11 Apr 2026 22:26:58 GMT",
        "Description":  "Virtual machine is being paused because of a Live Migration operation.",
        "EventSource":  "Platform",
        "DurationInSeconds":  5
    }]
}"""

SCALAR = st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers()
JSON = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=3), SCALAR)
EVENT = st.dictionaries(st.sampled_from(["EventId", "EventType", "Resources", "NotBefore"]), JSON)


def document(**event: Any) -> bytes:
    return json.dumps({"DocumentIncarnation": 1, "Events": [event]}).encode()


def test_documented_example_is_parsed() -> None:
    (notice,) = read_events(DOCUMENT)
    assert notice == ScheduledEvent(
        "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
        "Freeze",
        frozenset({"westno_0", "westno_1"}),
        datetime(2026, 4, 11, 22, 26, 58, tzinfo=UTC),
    )
    assert read_events(b'{"DocumentIncarnation": 1, "Events": []}') == []


@pytest.mark.parametrize("not_before", ["", None, "soon", 5, "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_invalid_start_time_is_none(not_before: Any) -> None:
    (notice,) = read_events(document(EventType="Reboot", NotBefore=not_before))
    assert notice.not_before is None


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"5", b'{"Events": 1}', b"\xff", b"[" * 5000])
def test_document_without_a_list_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableEvents):
        read_events(text)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableEvents):
        read_events(data)


@given(st.lists(EVENT, max_size=3))
def test_any_json_object_is_an_event(events: list[dict[str, Any]]) -> None:
    notices = read_events(json.dumps({"Events": events}).encode())
    assert [notice.may_stop("vm", NOW) for notice in notices] == [False] * len(events)


@pytest.mark.parametrize("kind", ["Preempt", "Terminate", "Reboot", "Redeploy"])
def test_ending_event_stops_only_its_machine(kind: str) -> None:
    notice = ScheduledEvent("id", kind, frozenset({"vm_0"}), NOW + timedelta(seconds=30))
    assert notice.may_stop("VM_0", NOW)
    assert not notice.may_stop("vm_1", NOW)


@pytest.mark.parametrize("kind", ["Freeze", "", "SomethingNew"])
def test_freeze_or_unknown_event_stops_nothing(kind: str) -> None:
    assert not ScheduledEvent("id", kind, frozenset({"vm_0"})).may_stop("vm_0", NOW)


@pytest.mark.parametrize(("minutes", "is_stopped"), [(15, True), (21, False), (7 * 24 * 60, False)])
def test_event_is_ignored_until_20_minutes_before(minutes: int, is_stopped: bool) -> None:
    notice = ScheduledEvent("id", "Redeploy", frozenset({"vm_0"}), NOW + timedelta(minutes=minutes))
    assert notice.may_stop("vm_0", NOW) is is_stopped
