"""Start all components at the same time, keep them running, and stop them one by one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from loosely.local.process_manager import ProcessManager
    from loosely.local.worker_pool import WorkerPool

_DISK_CHECK_SECONDS = 2.0


SupervisedProcess: TypeAlias = "ProcessManager | WorkerPool"


class SystemSupervisor:
    """Runs process managers and worker pools, and stops them in reverse order."""

    def __init__(
        self,
        processes: Sequence[SupervisedProcess],
        check_disk: Callable[[], None] = lambda: None,
        watch: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        """Create the supervisor of processes, each of which may depend on those before it.

        ``watch`` runs until a stop is requested, and may halt and resume processes.
        """
        self._watch = watch
        self._processes = processes
        self._check_disk = check_disk
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    @property
    def is_killed(self) -> bool:
        """Whether a stop was requested twice, so that all processes were killed."""
        return self._kill.is_set()

    def request_stop(self) -> None:
        """Make `run` stop the processes one by one or, at the second call, kill them all."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def wait_until_ready(self) -> None:
        """Wait until every process has been ready at least once."""
        for process in self._processes:
            await process.has_been_ready.wait()

    async def run(self) -> None:
        """Start all processes and keep them running until a stop is requested.

        If a process cannot be started, all others are stopped, and its UpError is raised.
        """
        runs = [asyncio.create_task(process.run()) for process in self._processes]
        stop = asyncio.create_task(self._stop.wait())
        watches = [asyncio.create_task(self._watch_disk())]
        if self._watch is not None:
            watches.append(asyncio.create_task(self._watch()))
        try:
            await asyncio.wait([stop, *watches, *runs], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stop, *watches):
                task.cancel()
            await self._stop_all(runs)
            outcomes = await asyncio.gather(*runs, *watches, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _stop_all(self, runs: "Sequence[asyncio.Task[None]]") -> None:
        """Stop the processes from the last to the first, so that the worker can still reply."""
        for process, run in reversed(list(zip(self._processes, runs, strict=True))):
            if not run.done():
                await process.stop(run, self._kill)

    async def _watch_disk(self) -> None:
        while True:
            await asyncio.sleep(_DISK_CHECK_SECONDS)
            for process in self._processes:
                process.limit_logs()
            self._check_disk()
