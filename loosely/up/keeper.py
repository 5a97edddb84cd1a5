"""The life of one part: started, ready, restarted when it dies, stopped when asked."""

import asyncio
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from loosely.up import events
from loosely.up.backoff import Backoff
from loosely.up.errors import (
    PORT_BUSY_EXIT_CODE,
    USAGE_EXIT_CODE,
    PartFailed,
    PartPortBusy,
)
from loosely.up.guard import kill_group
from loosely.up.launcher import Launcher
from loosely.up.logs import PartLog
from loosely.up.parts import Part
from loosely.up.readiness import wait_until_ready

_LAST_WORDS_LINES = 12


@dataclass(frozen=True, slots=True)
class Patience:
    """How much a part may fail before it is given up; only its first readiness counts."""

    deaths: int = 3
    slow_after_seconds: float = 20.0
    ready_within_seconds: float = 180.0


@dataclass(slots=True)
class Keeper:
    """Keeps one part running until it is stopped."""

    part: Part
    log: PartLog
    launcher: Launcher
    tell: events.Watcher
    patience: Patience = field(default_factory=Patience)
    backoff: Backoff = field(default_factory=Backoff)
    clock: Callable[[], float] = time.monotonic
    #: Set at the first readiness, and for good.
    has_been_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: bool = False
    _deaths: int = 0
    _process: Process | None = None

    async def run(self) -> None:
        """Start the part, and again whenever it dies; return once it was stopped.

        Raises:
            PreparationFailed: a file it needs cannot be made.
            PartFailed: it cannot be brought to readiness.
        """
        if self.part.preparation is not None:
            await self.launcher.prepare(self.part, self.part.preparation)
        while True:
            started_at = self.clock()
            self._process = process = await self.launcher.launch(self.part, self.log)
            self.tell(events.Started(self.part, process.pid))
            try:
                await self._live(process, started_at)
            finally:
                self._process = None
                self.launcher.clear(process)
            if self._stopping:
                return
            exit_code = process.returncode
            assert exit_code is not None
            self._count_death(exit_code)
            delay_seconds = self.backoff.after(self.clock() - started_at)
            self.tell(events.Died(self.part, exit_code, self.log.last_line(), delay_seconds))
            await asyncio.sleep(delay_seconds)

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """End the part and its ``run``: asked first, forced when it is slow or ``kill`` is set."""
        asked_at = self.clock()
        self._stopping = True
        process = self._process
        if process is None:
            run.cancel()
            await asyncio.wait([run])
            self.tell(events.Stopped(self.part, 0.0, killed=False))
            return
        self.tell(events.Stopping(self.part))
        with suppress(ProcessLookupError):
            process.terminate()
        killing = asyncio.create_task(kill.wait())
        await asyncio.wait(
            [run, killing],
            timeout=self.part.drain_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        killing.cancel()
        killed = not run.done()
        if killed:
            kill_group(process.pid)
            await asyncio.wait([run])
        self.tell(events.Stopped(self.part, self.clock() - asked_at, killed))

    def cut_logs(self) -> None:
        """Keep the log in its bounds."""
        self.log.cut()

    async def _live(self, process: Process, started_at: float) -> None:
        """Return when ``process`` has ended; say when it becomes ready on the way."""
        ended = asyncio.create_task(process.wait())
        ready = asyncio.create_task(self._become_ready(started_at))
        try:
            await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await ready
            await ended
        except BaseException:
            # Given up, or cancelled: the process must not stay behind.
            kill_group(process.pid)
            await asyncio.shield(ended)
            raise
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _become_ready(self, started_at: float) -> None:
        probing = asyncio.create_task(wait_until_ready(self.part.probe))
        try:
            await asyncio.wait([probing], timeout=self.patience.slow_after_seconds)
            if not probing.done():
                self.tell(events.Slow(self.part, self.clock() - started_at, self.log.last_line()))
                left_seconds = self.patience.ready_within_seconds - (self.clock() - started_at)
                await asyncio.wait([probing], timeout=max(left_seconds, 0.0))
            if not probing.done() and not self.has_been_ready.is_set():
                raise PartFailed(self._last_words("is not ready after so long"))
            await probing
        finally:
            probing.cancel()
        self.tell(events.Ready(self.part, self.clock() - started_at, self.has_been_ready.is_set()))
        self.has_been_ready.set()

    def _count_death(self, exit_code: int) -> None:
        if self.has_been_ready.is_set():
            return
        self._deaths += 1
        how = events.describe_exit(exit_code)
        if exit_code == PORT_BUSY_EXIT_CODE:
            raise PartPortBusy(self._last_words(f"found its port taken ({how})"))
        if exit_code == USAGE_EXIT_CODE:
            # A setting that is refused now will be refused the next time too.
            raise PartFailed(self._last_words(f"refused its settings ({how})"))
        if self._deaths >= self.patience.deaths:
            raise PartFailed(
                self._last_words(f"died {self._deaths} times before it was ready ({how})")
            )

    def _last_words(self, what: str) -> str:
        said = "\n".join(f"  {line}" for line in self.log.tail(_LAST_WORDS_LINES))
        return (
            f"{self.part.name} {what}; its log, {self.log.path}, ends with:\n{said or '  nothing'}"
        )
