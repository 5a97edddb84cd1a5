"""Start all components at the same time, keep them running, and stop them one by one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

_DISK_CHECK_SECONDS = 2.0


class SupervisedProcess(Protocol):
    """The interface through which the supervisor runs process managers and worker pools."""

    has_been_ready: asyncio.Event

    async def run(self) -> None:
        """Start the component or the pool's workers, and restart each process that dies.

        Raises UpError if a process cannot be started.
        """

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """Stop the component or the pool's workers, and wait until ``run`` has ended.

        ``run`` is the task that executes the method `run`. As soon as ``kill`` is set, the
        processes are killed.
        """

    async def halt(self, reason: str) -> None:
        """Stop the component or the pool's workers because of ``reason``.

        They are not started again before `resume` is called.
        """

    def reload(self, reason: str) -> bool:
        """Let the component read its changed files because of ``reason``, without an interruption.

        Return False if the component cannot do this now. Then it must be restarted.
        """

    def resume(self) -> None:
        """Start the component or the pool's workers again after `halt`."""

    def limit_logs(self) -> None:
        """Truncate each log that is larger than its limit."""


class SystemSupervisor:
    """Runs process managers and worker pools.

    In the argument `processes`, a process may depend on the processes before it. Therefore the
    processes are stopped in reverse order.
    """

    def __init__(
        self,
        processes: Sequence[SupervisedProcess],
        check_disk: Callable[[], None] = lambda: None,
        watch: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        """Create the supervisor.

        Args:
            processes: The processes to run, in the order of their dependencies.
            check_disk: A function that checks the disk. It is called every few seconds.
            watch: A function that runs until a stop is requested, and may halt and resume
                processes.
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
        """Request that `run` stops the processes one by one, from the last to the first.

        The second call of this method makes `run` kill all processes.
        """
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def wait_until_ready(self) -> None:
        """Wait until every process has been ready at least once."""
        for process in self._processes:
            await process.has_been_ready.wait()

    async def run(self) -> None:
        """Start all processes and keep them running until a stop is requested.

        Raises:
            UpError: A process could not be started. All other processes have been stopped.
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
        """Stop the processes one by one, from the last to the first.

        The worker is stopped before the gateway and Service Bus. Therefore the worker can
        still send replies and settle messages while it drains.
        """
        for process, run in reversed(list(zip(self._processes, runs, strict=True))):
            if not run.done():
                await process.stop(run, self._kill)

    async def _watch_disk(self) -> None:
        while True:
            await asyncio.sleep(_DISK_CHECK_SECONDS)
            for process in self._processes:
                process.limit_logs()
            self._check_disk()
