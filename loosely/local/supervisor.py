"""All parts together: started at once, kept running, stopped in order."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

_LOG_CHECK_SECONDS = 5.0


class SupervisedProcess(Protocol):
    """What the supervisor needs of a process manager or of a worker pool."""

    has_been_ready: asyncio.Event

    async def run(self) -> None:
        """Start and keep running. Raises UpError if that is not possible."""

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """Stop what runs, at once if ``kill`` is set, and wait for the end of ``run``."""

    def limit_logs(self) -> None:
        """Truncate logs that are too large."""


class SystemSupervisor:
    """Runs processes. Each may depend on those before it."""

    def __init__(self, processes: Sequence[SupervisedProcess]) -> None:
        self._processes = processes
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    @property
    def is_killed(self) -> bool:
        """Whether the stop was forced."""
        return self._kill.is_set()

    def request_stop(self) -> None:
        """Stop everything in order; on the second call, kill everything."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def wait_until_ready(self) -> None:
        """Wait until every process has been ready."""
        for process in self._processes:
            await process.has_been_ready.wait()

    async def run(self) -> None:
        """Start everything and run until a stop is requested.

        Raises:
            UpError: A part cannot be started; the others have been stopped.
        """
        runs = [asyncio.create_task(process.run()) for process in self._processes]
        stop = asyncio.create_task(self._stop.wait())
        logs = asyncio.create_task(self._limit_logs())
        try:
            await asyncio.wait([stop, logs, *runs], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            logs.cancel()
            await self._stop_all(runs)
            outcomes = await asyncio.gather(*runs, logs, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _stop_all(self, runs: "Sequence[asyncio.Task[None]]") -> None:
        """Stop the last process first.

        The worker drains while the gateway can still take its replies and the Service Bus its
        settlements.
        """
        for process, run in reversed(list(zip(self._processes, runs, strict=True))):
            if not run.done():
                await process.stop(run, self._kill)

    async def _limit_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_SECONDS)
            for process in self._processes:
                process.limit_logs()
