"""Notices of the platform: Azure tells a machine of its coming end, and the worker leaves in time.

Protocol: Scheduled Events of the Azure Instance Metadata Service, api-version 2020-07-01. The
machine's own events and those of its neighbours come in one document, polled each second as
documented; a spot machine has 30 seconds from its notice.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import httpx

from worker.remote.backoff import Backoff
from worker.remote.reach import Reach

_log = logging.getLogger(__name__)

METADATA_ADDRESS = "http://169.254.169.254"

_EVENTS_PATH = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME_PATH = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_ENDING = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})
# Hardware that is predicted to fail is announced days ahead: until this close, work on. Every
# other notice is shorter.
_LEAVE_AHEAD = timedelta(minutes=20)

_POLL_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0
# The first question switches the service on for the machine and may be answered after two minutes.
_FIRST_TIMEOUT_SECONDS = 130.0
_TIMEOUT_SECONDS = 10.0
_ACKNOWLEDGE_SECONDS = 5.0
_LARGEST_BYTES = 1_000_000


class Mode(StrEnum):
    """What the worker does about notices."""

    OFF = "off"
    DRAIN = "drain"
    ACKNOWLEDGE = "acknowledge"


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """Where notices come from. Without a machine name the metadata service is asked for it."""

    mode: Mode = Mode.OFF
    address: str = METADATA_ADDRESS
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One event. `not_before` is None once it may happen at any moment."""

    event_id: str
    kind: str
    machines: frozenset[str] = field(default_factory=frozenset)
    not_before: datetime | None = None

    def ends(self, machine: str, now: datetime) -> bool:
        """Whether this machine is about to lose what it holds in memory."""
        if self.kind not in _ENDING or not self.concerns(machine):
            return False
        return self.not_before is None or self.not_before - now <= _LEAVE_AHEAD

    def concerns(self, machine: str) -> bool:
        """Whether it is about this machine, among others perhaps."""
        return machine.lower() in self.machines


class NoticesUnreadable(Exception):
    """The document is not what the protocol says."""


class Notices:
    """Asks for notices on a thread of its own, until one ends this machine or `stop`."""

    def __init__(
        self,
        settings: NoticeSettings,
        leave: Callable[[str], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`leave` is called once, with the reason, when the worker is to go."""
        self._mode = settings.mode
        self._machine = settings.machine
        self._leave = leave
        self._clock = clock
        self._stop = threading.Event()
        self._backoff = Backoff(first_seconds=_POLL_SECONDS, limit_seconds=_LONGEST_PAUSE_SECONDS)
        self._reach = Reach("the metadata service")
        self._timeout_seconds = _FIRST_TIMEOUT_SECONDS
        self._told: set[str] = set()
        self._ending: list[Notice] = []
        # Straight to the machine's own service: Microsoft rules proxies out.
        self._client = httpx.Client(
            base_url=settings.address, headers={"metadata": "true"}, trust_env=False
        )

    def start(self) -> None:
        """Ask from now on, where this is switched on."""
        if self._mode is not Mode.OFF:
            threading.Thread(target=self._run, name="notices", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def turn(self) -> float:
        """Ask once; returns the seconds to the next time."""
        try:
            self._machine = self._machine or self._get(_NAME_PATH).decode().strip()
            notices = read_notices(self._get(_EVENTS_PATH))
        except (httpx.HTTPError, NoticesUnreadable, UnicodeDecodeError) as error:
            # Also 404 and 410, by which it says that it is being started or updated.
            self._reach.lost(
                str(error) if isinstance(error, NoticesUnreadable) else type(error).__name__
            )
            return self._backoff.next()
        self._reach.found()
        self._backoff.reset()
        self._timeout_seconds = _TIMEOUT_SECONDS
        self._heed(notices)
        return _POLL_SECONDS

    def acknowledge(self) -> None:
        """Let the platform go on, now that the worker has left; never fails.

        Only for what concerns this machine alone: the word of one counts for all of them.
        """
        mine = [notice for notice in self._ending if len(notice.machines) == 1]
        if self._mode is not Mode.ACKNOWLEDGE or not mine:
            return
        body = {"StartRequests": [{"EventId": notice.event_id} for notice in mine]}
        try:
            self._client.post(
                _EVENTS_PATH, json=body, timeout=_ACKNOWLEDGE_SECONDS
            ).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning("the notice could not be acknowledged: %s", type(error).__name__)

    def _run(self) -> None:
        pause_seconds = 0.0
        while not self._stop.wait(pause_seconds):
            try:
                pause_seconds = self.turn()
            except Exception:  # noqa: BLE001  the edge: a defect must not make us deaf
                _log.exception("asking for notices failed, and goes on")
                pause_seconds = _LONGEST_PAUSE_SECONDS

    def _heed(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            if notice.event_id not in self._told and notice.concerns(self._machine):
                when = f"not before {notice.not_before}" if notice.not_before else "from now on"
                _log.warning("Azure announces %s of this machine, %s", notice.kind, when)
        self._told = {notice.event_id for notice in notices}
        now = self._clock()
        self._ending = [notice for notice in notices if notice.ends(self._machine, now)]
        if self._ending:
            self.stop()
            self._leave(f"Azure announces {self._ending[0].kind} of this machine")

    def _get(self, path: str) -> bytes:
        with self._client.stream("GET", path, timeout=self._timeout_seconds) as answer:
            if answer.status_code != 200:
                raise NoticesUnreadable(f"status {answer.status_code}")
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > _LARGEST_BYTES:
                    raise NoticesUnreadable("the document is too large")
        return bytes(body)


def read_notices(document: bytes) -> list[Notice]:
    """The notices of a document; raises NoticesUnreadable. Unknown fields and events pass."""
    try:
        parsed = json.loads(document)
        events = parsed["Events"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoticesUnreadable("the document is not one of scheduled events") from None
    if not isinstance(events, list):
        raise NoticesUnreadable("the document has no list of events")
    return [_notice(event) for event in events if isinstance(event, dict)]


def _notice(event: dict[str, Any]) -> Notice:
    resources = event.get("Resources")
    machines = resources if isinstance(resources, list) else []
    return Notice(
        event_id=str(event.get("EventId")),
        kind=str(event.get("EventType")),
        machines=frozenset(name.lower() for name in machines if isinstance(name, str)),
        not_before=_time(event.get("NotBefore")),
    )


def _time(text: object) -> datetime | None:
    """An RFC 1123 date; None for what is none, as once the event has started."""
    try:
        parsed = parsedate_to_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed and parsed.tzinfo is None else parsed
