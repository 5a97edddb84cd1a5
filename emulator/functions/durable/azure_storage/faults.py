"""Inject faults on request: crashes at named points or at random, and split brains.

In a split brain, two hosts run the same episode, because both own the partition of the instance.

A crash at a named point happens only once for each task hub, in the first host that reaches the
point. Before this host kills itself, it stores in the task hub that the crash has happened.
"""

import asyncio
import logging
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

from emulator.functions.durable.azure_storage.database import Database
from emulator.functions.durable.azure_storage.options import CrashPoint, FaultOptions
from emulator.functions.durable.history import EventType

_log = logging.getLogger(__name__)
_EVENT_WAIT_SECONDS = 30.0
_EVENT_POLL_SECONDS = 0.01
_WATCH = (
    "INSERT OR REPLACE INTO awaited_events SELECT ?1, ?2, EXISTS(SELECT 1 FROM control_messages"
    " WHERE instance_id=?1 AND kind=?3 AND ?2 IN ('', json_extract(text, '$.Name')))"
)
_RANDOM_POINTS = (CrashPoint.BEFORE_SEND, CrashPoint.BEFORE_SAVE, CrashPoint.BEFORE_DELETE)


def kill_this_process() -> None:
    """Kill this process without any cleanup, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """Injects the requested faults into one host."""

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
        """Seed the random generator for this host, so that each host has faults of its own."""
        if self._options.seed is not None:
            number = await self._database.transact(_count_host)
            self._random.seed(f"{self._options.seed}/{number}")

    async def reach(self, point: CrashPoint, name: str) -> None:
        """Kill this process if a crash at this point is requested, or at random (`crash_rate`)."""
        await self._reach_named(point, name)
        if point in _RANDOM_POINTS and (
            self._random.random() < self._options.crash_rate / len(_RANDOM_POINTS)
        ):
            _log.warning(
                "%s has reached the crash point %s: this process kills itself (random crash)",
                *(name, point),
            )
            await self._end()

    def draw_split_brain(self) -> bool:
        """Return at random whether a second owner of the partition also runs the episode."""
        return self._random.random() < self._options.split_brain_rate

    def flip_coin(self) -> bool:
        """Return True or False at random, with equal probability."""
        return self._random.random() < 0.5

    async def watch_for_event(self, instance_id: str) -> Callable[[], Awaitable[None]] | None:
        """Watch for an external event to the instance (crash point `before-save-after-event`).

        Call this before the episode runs, and await the result before the episode is saved: it
        kills the process when the event is accepted, or after 30 s. An event that is already in the
        queue was accepted before the episode began. None if the point is not requested.
        """
        wanted = [
            text
            for text in self._options.crash_at
            if text.partition(":")[0] == CrashPoint.BEFORE_SAVE_AFTER_EVENT
            and not self._was_reached(text)
        ]
        if not wanted:
            return None
        kind = int(EventType.EVENT_RAISED)
        rows = [(instance_id, text.partition(":")[2], kind) for text in wanted]

        def watch(connection: sqlite3.Connection) -> None:
            connection.executemany(_WATCH, rows)

        await self._database.transact(watch)
        return lambda: self._die_after_event(instance_id, wanted)

    async def _die_after_event(self, instance_id: str, wanted: list[str]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_WAIT_SECONDS):
                while not self._database.read(  # noqa: ASYNC110 - another host may accept the event
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
            _log.warning(
                "%s has reached the crash point %s: this process kills itself (requested crash)",
                *(name, text),
            )
            await self._end()

    def _was_reached(self, text: str) -> bool:
        return bool(
            self._database.read("SELECT 1 FROM reached_crash_points WHERE point=?", (text,))
        )

    async def _end(self) -> None:
        self._die()
        # `_die` returns only in tests. The caller must not continue after the crash.
        await asyncio.get_running_loop().create_future()


def accept_event(connection: sqlite3.Connection, instance_id: str, name: str) -> None:
    """Record an event for `Faults.watch_for_event` in the transaction that stores it."""
    connection.execute(
        "UPDATE awaited_events SET accepted=1 WHERE instance_id=? AND name IN ('', ?)",
        (instance_id, name),
    )


def _count_host(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT OR IGNORE INTO settings VALUES('host_count', '0')")
    connection.execute("UPDATE settings SET value=value+1 WHERE name='host_count'")
    row = connection.execute("SELECT value FROM settings WHERE name='host_count'").fetchone()
    return int(row[0])
