"""All parts together: started at once, kept running, stopped in order."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

_LOG_CHECK_SECONDS = 5.0


class Member(Protocol):
    """One part's keeper, or a fleet of them."""

    has_been_ready: asyncio.Event

    async def run(self) -> None:
        """Start, and keep running; raises UpError."""

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """End what runs, and ``run``."""

    def cut_logs(self) -> None:
        """Keep the logs in their bounds."""


class Supervisor:
    """Runs keepers, given in the order in which the parts rely on one another."""

    def __init__(self, keepers: Sequence[Member]) -> None:
        """Nothing is started before :meth:`run`."""
        self._keepers = keepers
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    @property
    def killed(self) -> bool:
        """Whether the stop was forced."""
        return self._kill.is_set()

    def request_stop(self) -> None:
        """Stop everything in order; asked again, at once."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def wait_until_ready(self) -> None:
        """Return once every part has been ready."""
        for keeper in self._keepers:
            await keeper.has_been_ready.wait()

    async def run(self) -> None:
        """Run until a stop is requested.

        Raises:
            UpError: a part cannot be started; the others have been stopped.
        """
        runs = [asyncio.create_task(keeper.run()) for keeper in self._keepers]
        stop = asyncio.create_task(self._stop.wait())
        logs = asyncio.create_task(self._bound_logs())
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
        """Stop the last part first.

        The worker drains while the gateway can still take its replies and the queue its
        settlements; whoever is relied upon goes last.
        """
        for keeper, run in reversed(list(zip(self._keepers, runs, strict=True))):
            if not run.done():
                await keeper.stop(run, self._kill)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_SECONDS)
            for keeper in self._keepers:
                keeper.cut_logs()
