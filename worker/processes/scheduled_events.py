"""Poll Azure's scheduled events, and shut the worker down before Azure stops the machine.

The protocol is Scheduled Events of the Azure Instance Metadata Service, api-version 2020-07-01. One
JSON document lists the events of this machine and of other machines in the same scale set. The
worker polls the document every second, as Microsoft recommends. A spot machine continues to run for
at least 30 seconds after the announcement.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from worker.retries import RetryDelays
from worker.settings import ScheduledEventMode, ScheduledEventSettings
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

_EVENTS_PATH = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME_PATH = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_ENDING = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})
# If hardware is predicted to fail, Azure announces the event days ahead. The worker then continues
# to work until 20 minutes before the event. Azure announces all other events later than that.
_DRAIN_AHEAD = timedelta(minutes=20)

_POLL_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0
# The first request activates the service for the machine, and may take two minutes.
_FIRST_TIMEOUT_SECONDS = 130.0
_TIMEOUT_SECONDS = 10.0
_ACKNOWLEDGE_SECONDS = 5.0
_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """An event that Azure has announced for `machines`, whose names are in lower case."""

    event_id: str
    kind: str
    machines: frozenset[str] = field(default_factory=frozenset)
    not_before: datetime | None = None

    def may_stop(self, machine: str, now: datetime) -> bool:
        """Return whether the event may stop this machine within the next 20 minutes."""
        if self.kind not in _ENDING or not self.concerns(machine):
            return False
        return self.not_before is None or self.not_before - now <= _DRAIN_AHEAD

    def concerns(self, machine: str) -> bool:
        """Return whether the event affects this machine."""
        return machine.lower() in self.machines


class UnreadableEvents(Exception):
    """The metadata service did not return a valid document of scheduled events."""


class ScheduledEvents:
    """Polls for events. If one will soon stop this machine, requests the worker's shutdown."""

    def __init__(
        self,
        settings: ScheduledEventSettings,
        request_shutdown: Callable[[str], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Create the HTTP client. `request_shutdown` is called once, with the reason."""
        self._mode = settings.mode
        self._machine = settings.machine
        self._request_shutdown = request_shutdown
        self._clock = clock
        self._stop = threading.Event()
        self._backoff = RetryDelays(
            first_seconds=_POLL_SECONDS, limit_seconds=_LONGEST_PAUSE_SECONDS
        )
        self._status = ServiceStatus("the metadata service")
        self._timeout_seconds = _FIRST_TIMEOUT_SECONDS
        self._logged_ids: set[str] = set()
        self._ending: list[ScheduledEvent] = []
        # Without proxies: Microsoft requires a direct connection to the metadata service.
        self._client = httpx.Client(
            base_url=settings.address, headers={"metadata": "true"}, trust_env=False
        )

    def start(self) -> None:
        """Start the polling thread."""
        threading.Thread(target=self._run, name="scheduled-events", daemon=True).start()

    def stop(self) -> None:
        """Stop the polling thread."""
        self._stop.set()

    def poll(self) -> float:
        """Ask the metadata service once. Return how many seconds to wait before the next poll."""
        try:
            self._machine = self._machine or self._get(_NAME_PATH).decode().strip()
            events = read_events(self._get(_EVENTS_PATH))
        except (httpx.HTTPError, UnreadableEvents, UnicodeDecodeError) as error:
            # This includes statuses 404 and 410, which mean that the service starts or is updated.
            self._status.mark_down(
                str(error) if isinstance(error, UnreadableEvents) else type(error).__name__
            )
            return self._backoff.next()
        self._status.mark_up()
        self._backoff.reset()
        self._timeout_seconds = _TIMEOUT_SECONDS
        self._handle(events)
        return _POLL_SECONDS

    def acknowledge(self) -> None:
        """Allow Azure to start the announced events now, because the worker has shut down.

        An event that also affects other machines is not acknowledged, because that would count for
        all.
        """
        mine = [event for event in self._ending if len(event.machines) == 1]
        if self._mode is not ScheduledEventMode.ACKNOWLEDGE or not mine:
            return
        body = {"StartRequests": [{"EventId": event.event_id} for event in mine]}
        try:
            self._client.post(
                _EVENTS_PATH, json=body, timeout=_ACKNOWLEDGE_SECONDS
            ).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning(
                "acknowledging the scheduled event failed, so the event begins at its planned "
                "time: %s",
                type(error).__name__,
            )

    def _run(self) -> None:
        pause_seconds = 0.0
        while not self._stop.wait(pause_seconds):
            try:
                pause_seconds = self.poll()
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception("polling for scheduled events failed; the worker will try again")
                pause_seconds = _LONGEST_PAUSE_SECONDS

    def _handle(self, events: Sequence[ScheduledEvent]) -> None:
        for event in events:
            if event.event_id not in self._logged_ids and event.concerns(self._machine):
                when = f"no earlier than {event.not_before}" if event.not_before else "at any time"
                _log.warning(
                    "Azure has scheduled the event %s for this machine; it may begin %s",
                    event.kind,
                    when,
                )
        self._logged_ids = {event.event_id for event in events}
        now = self._clock()
        self._ending = [event for event in events if event.may_stop(self._machine, now)]
        if self._ending:
            self.stop()
            self._request_shutdown(
                f"Azure has scheduled the event {self._ending[0].kind} for this machine"
            )

    def _get(self, path: str) -> bytes:
        with self._client.stream("GET", path, timeout=self._timeout_seconds) as response:
            if response.status_code != 200:
                raise UnreadableEvents(
                    "the request for scheduled events returned HTTP status "
                    f"{response.status_code}; expected 200"
                )
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > _LARGEST_BYTES:
                    raise UnreadableEvents(
                        f"the document of scheduled events has more than {_LARGEST_BYTES} bytes"
                    )
        return bytes(body)


def read_events(document: bytes) -> list[ScheduledEvent]:
    """Return the events in a document of scheduled events, or raise UnreadableEvents."""
    try:
        parsed = json.loads(document)
        events = parsed["Events"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnreadableEvents(
            "the document of scheduled events is not a JSON object with the field Events"
        ) from None
    if not isinstance(events, list):
        raise UnreadableEvents("the field Events in the document of scheduled events is not a list")
    return [_event(event) for event in events if isinstance(event, dict)]


def _event(event: dict[str, Any]) -> ScheduledEvent:
    resources = event.get("Resources")
    machines = resources if isinstance(resources, list) else []
    return ScheduledEvent(
        event_id=str(event.get("EventId")),
        kind=str(event.get("EventType")),
        machines=frozenset(name.lower() for name in machines if isinstance(name, str)),
        not_before=_time(event.get("NotBefore")),
    )


def _time(text: object) -> datetime | None:
    """Parse a date of RFC 1123. Return None for other values, as Azure sends after the start."""
    try:
        parsed = parsedate_to_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed and parsed.tzinfo is None else parsed
