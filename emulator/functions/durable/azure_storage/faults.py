"""Inject faults on request: crashes at named points or at random, and split brains.

A named crash point is reached once in the life of a task hub, whichever host reaches it: a marker
is committed to the task hub before the process dies.
"""

import asyncio
import logging
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from emulator.functions.durable.azure_storage.database import Database

_log = logging.getLogger(__name__)
_EVENT_WAIT_SECONDS = 30.0
_EVENT_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class FaultOptions:
    """The faults to inject; the rates are probabilities for each episode."""

    crash_at: tuple[str, ...] = ()
    """Crash points as POINT or POINT:NAME, checked by `faults.check_crash_point`."""
    crash_rate: float = 0.0
    split_brain_rate: float = 0.0
    seed: int | None = None


class CrashPoint(StrEnum):
    """The points at which a host can be made to die; NAME selects one function or event."""

    BEFORE_SEND = "before-send"
    """An episode has run; nothing is sent or saved. NAME: the orchestrator."""
    BEFORE_SAVE = "before-save"
    """The episode's messages are sent, its history is not saved. NAME: the orchestrator."""
    BEFORE_SAVE_AFTER_EVENT = "before-save-after-event"
    """As before-save, once an external event for the instance was accepted. NAME: the event."""
    BEFORE_DELETE = "before-delete"
    """The history is saved, the dequeued messages are not deleted. NAME: the orchestrator."""
    BEFORE_EVENT = "before-event"
    """A raiseEvent request arrived; nothing is stored. NAME: the event."""
    AFTER_EVENT = "after-event"
    """The event is stored; the request is not answered. NAME: the event."""
    BEFORE_ACTIVITY = "before-activity"
    """A work item is dequeued; the activity has not run. NAME: the activity."""
    AFTER_ACTIVITY = "after-activity"
    """The activity ran; its completion is not sent. NAME: the activity."""


_RANDOM_POINTS = (CrashPoint.BEFORE_SEND, CrashPoint.BEFORE_SAVE, CrashPoint.BEFORE_DELETE)


def check_crash_point(text: str) -> str:
    """Return a POINT or POINT:NAME unchanged. Raises ValueError if the point does not exist."""
    point = text.partition(":")[0]
    if point not in set(CrashPoint):
        raise ValueError(f"{point!r} is not a crash point: use one of {', '.join(CrashPoint)}")
    return text


def kill_this_process() -> None:
    """Kill this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """The faults of one host."""

    def __init__(
        self,
        options: FaultOptions,
        database: Database,
        die: Callable[[], None] = kill_this_process,
    ) -> None:
        self._options = options
        self._database = database
        self._die = die
        self._random = Random()  # noqa: S311 - not for secrets

    async def start(self) -> None:
        """Seed the random faults with the seed and the count of hosts of the task hub."""
        if self._options.seed is not None:
            number = await self._database.transact(_count_host)
            self._random.seed(f"{self._options.seed}/{number}")

    async def reach(self, point: CrashPoint, name: str) -> None:
        """Kill the process if this crash point is requested and was not reached before."""
        await self._reach_named(point, name)
        if point in _RANDOM_POINTS and (
            self._random.random() < self._options.crash_rate / len(_RANDOM_POINTS)
        ):
            _log.warning("random crash %s of %s: this process dies", point, name)
            await self._end()

    def draw_split_brain(self) -> bool:
        """Return at random whether a second owner runs the current episode, too."""
        return self._random.random() < self._options.split_brain_rate

    def draw_coin(self) -> bool:
        """Return True or False at random, with equal probability."""
        return self._random.random() < 0.5

    async def watch_for_event(self, instance_id: str) -> Callable[[], Awaitable[None]] | None:
        """Start watching for an external event if a crash point waits for one.

        Call this before the episode runs. Await the returned function before the episode is saved:
        it waits for the event and kills the process.
        """
        wanted = [
            text
            for text in self._options.crash_at
            if text.partition(":")[0] == CrashPoint.BEFORE_SAVE_AFTER_EVENT
            and not self._was_reached(text)
        ]
        if not wanted:
            return None
        names = [(instance_id, text.partition(":")[2]) for text in wanted]

        def watch(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO awaited_events VALUES(?, ?, 0)", names)

        await self._database.transact(watch)
        return lambda: self._die_after_event(instance_id, wanted)

    async def _die_after_event(self, instance_id: str, wanted: list[str]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_WAIT_SECONDS):
                while not self._database.read(  # noqa: ASYNC110 - another host may accept it
                    "SELECT 1 FROM awaited_events WHERE instance_id=? AND accepted=1",
                    (instance_id,),
                ):
                    await asyncio.sleep(_EVENT_POLL_SECONDS)
        for text in wanted:
            await self._claim_and_die(text, instance_id)

    async def _reach_named(self, point: CrashPoint, name: str) -> None:
        for text in self._options.crash_at:
            wanted, _, wanted_name = text.partition(":")
            if wanted == point and wanted_name in {"", name}:
                await self._claim_and_die(text, name)

    async def _claim_and_die(self, text: str, name: str) -> None:
        if self._was_reached(text):
            return

        def claim(connection: sqlite3.Connection) -> bool:
            inserted = connection.execute(
                "INSERT OR IGNORE INTO reached_crash_points VALUES(?)", (text,)
            )
            return inserted.rowcount > 0

        if await self._database.transact(claim):
            _log.warning("crash point %s reached (%s): this process dies", text, name)
            await self._end()

    def _was_reached(self, text: str) -> bool:
        return bool(
            self._database.read("SELECT 1 FROM reached_crash_points WHERE point=?", (text,))
        )

    async def _end(self) -> None:
        self._die()
        # `_die` only returns in tests. Do not continue after it.
        await asyncio.get_running_loop().create_future()


def accept_event(connection: sqlite3.Connection, instance_id: str, name: str) -> None:
    """Store in the transaction of an external event that it was accepted."""
    connection.execute(
        "UPDATE awaited_events SET accepted=1 WHERE instance_id=? AND name IN ('', ?)",
        (instance_id, name),
    )


def _count_host(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT OR IGNORE INTO settings VALUES('host_count', '0')")
    connection.execute("UPDATE settings SET value=value+1 WHERE name='host_count'")
    row = connection.execute("SELECT value FROM settings WHERE name='host_count'").fetchone()
    return int(row[0])
