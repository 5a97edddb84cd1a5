"""Keep one component running: start, probe, restart and stop the component's process."""

import asyncio
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from loosely.local import events
from loosely.local.errors import (
    PORT_BUSY_EXIT_CODE,
    USAGE_EXIT_CODE,
    PartFailed,
    PartPortBusy,
)
from loosely.local.launcher import Launcher
from loosely.local.logs import PartLog
from loosely.local.parts import Part
from loosely.local.probe import wait_until_ready
from loosely.local.reaper import kill_group

_SHOWN_LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class StartLimits:
    """The limits on the start of a component that has never been ready.

    Attributes:
        max_deaths: If the component dies this number of times, it is not restarted.
        slow_after_seconds: If the component is not ready after this time, the user is informed.
        ready_within_seconds: If the component is not ready after this time, its start has failed.
    """

    max_deaths: int = 3
    slow_after_seconds: float = 20.0
    ready_within_seconds: float = 180.0


@dataclass(slots=True)
class RestartBackoff:
    """The delays before a component is restarted.

    The delay doubles after each short run, and is reset after a long run. The first delay is short,
    so that a killed worker is soon replaced.
    """

    first_seconds: float = 0.1
    limit_seconds: float = 5.0
    reset_after_seconds: float = 60.0
    _next_seconds: float = 0.0

    def next_delay(self, uptime_seconds: float) -> float:
        """Return the number of seconds to wait before the next restart.

        ``uptime_seconds`` is how many seconds the component ran before it died.
        """
        if uptime_seconds >= self.reset_after_seconds:
            self._next_seconds = 0.0
        delay_seconds = self._next_seconds or self.first_seconds
        self._next_seconds = min(delay_seconds * 2, self.limit_seconds)
        return delay_seconds


@dataclass(slots=True)
class ProcessManager:
    """Keeps one component running until `stop` is called.

    The caller must run `run` as an asyncio task, and pass this task to `stop`.
    """

    part: Part
    log: PartLog
    launcher: Launcher
    notify: events.EventHandler
    limits: StartLimits = field(default_factory=StartLimits)
    backoff: RestartBackoff = field(default_factory=RestartBackoff)
    clock: Callable[[], float] = time.monotonic
    #: Set when the component is ready for the first time, and never cleared.
    has_been_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _is_stopping: bool = False
    _deaths: int = 0
    _process: Process | None = None

    async def run(self) -> None:
        """Start the component, and restart it when it dies, until `stop` is called.

        Raises:
            PreparationFailed: A file that the component reads cannot be made.
            PartFailed: The component does not become ready.
        """
        if self.part.preparation is not None:
            await self.launcher.prepare(self.part, self.part.preparation)
        while True:
            started_at = self.clock()
            self._process = process = await self.launcher.launch(self.part, self.log)
            self.notify(events.PartStarted(self.part, process.pid))
            try:
                await self._wait_for_end(process, started_at)
            finally:
                self._process = None
                self.launcher.clean_up(process)
            if self._is_stopping:
                return
            exit_code = process.returncode
            assert exit_code is not None
            self._count_death(exit_code)
            delay_seconds = self.backoff.next_delay(self.clock() - started_at)
            self.notify(events.PartDied(self.part, exit_code, self.log.last_line(), delay_seconds))
            await asyncio.sleep(delay_seconds)

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """Stop the component, and wait for the end of the task ``run``.

        The process receives SIGTERM. It is killed if it still runs after the component's
        ``drain_seconds``, or as soon as ``kill`` is set.
        """
        asked_at = self.clock()
        self._is_stopping = True
        process = self._process
        if process is None:
            run.cancel()
            await asyncio.wait([run])
            self.notify(events.PartStopped(self.part, 0.0, is_killed=False))
            return
        self.notify(events.PartStopping(self.part))
        with suppress(ProcessLookupError):
            process.terminate()
        killing = asyncio.create_task(kill.wait())
        await asyncio.wait(
            [run, killing],
            timeout=self.part.drain_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        killing.cancel()
        is_killed = not run.done()
        if is_killed:
            kill_group(process.pid)
            await asyncio.wait([run])
        self.notify(events.PartStopped(self.part, self.clock() - asked_at, is_killed))

    def limit_logs(self) -> None:
        """Truncate the component's log if the log is larger than its limit."""
        self.log.limit_size()

    async def _wait_for_end(self, process: Process, started_at: float) -> None:
        """Wait until ``process`` has ended. Meanwhile, report when the component becomes ready."""
        ended = asyncio.create_task(process.wait())
        ready = asyncio.create_task(self._wait_until_ready(started_at))
        try:
            await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await ready
            await ended
        except BaseException:
            # The component was given up or this task was cancelled, so kill the process.
            kill_group(process.pid)
            await asyncio.shield(ended)
            raise
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _wait_until_ready(self, started_at: float) -> None:
        """Probe the component until it is ready, and report a slow start.

        Raises:
            PartFailed: The component was never ready, and is not ready after
                ``ready_within_seconds``.
        """
        probing = asyncio.create_task(wait_until_ready(self.part.probe))
        try:
            await asyncio.wait([probing], timeout=self.limits.slow_after_seconds)
            if not probing.done():
                seconds = self.clock() - started_at
                self.notify(events.PartSlow(self.part, seconds, self.log.last_line()))
                left_seconds = self.limits.ready_within_seconds - seconds
                await asyncio.wait([probing], timeout=max(left_seconds, 0.0))
            if not probing.done() and not self.has_been_ready.is_set():
                limit_seconds = self.limits.ready_within_seconds
                raise PartFailed(self._with_log(f"is not ready after {limit_seconds:g} s"))
            await probing
        finally:
            probing.cancel()
        seconds, is_restart = self.clock() - started_at, self.has_been_ready.is_set()
        self.notify(events.PartReady(self.part, seconds, is_restart))
        self.has_been_ready.set()

    def _count_death(self, exit_code: int) -> None:
        """Count the death of a component if it has never been ready.

        Raises:
            PartFailed: The component died too often, its settings are invalid, or its port is in
                use.
        """
        if self.has_been_ready.is_set():
            return
        self._deaths += 1
        exit_text = events.describe_exit(exit_code)
        if exit_code == PORT_BUSY_EXIT_CODE:
            raise PartPortBusy(
                self._with_log(f"could not listen on its port, which is taken ({exit_text})")
            )
        if exit_code == USAGE_EXIT_CODE:
            # The component would refuse the same settings again.
            raise PartFailed(
                self._with_log(f"ended because its settings are invalid ({exit_text})")
            )
        if self._deaths >= self.limits.max_deaths:
            raise PartFailed(
                self._with_log(f"died {self._deaths} times before it was ready ({exit_text})")
            )

    def _with_log(self, what: str) -> str:
        lines = "\n".join(f"  {line}" for line in self.log.tail(_SHOWN_LOG_LINES))
        return (
            f"{self.part.name} {what}; the last lines of its log {self.log.path}:\n"
            f"{lines or '  (empty)'}"
        )
