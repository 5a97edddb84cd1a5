"""Run `loosely up` once: lock the data directory, check the ports, supervise the components."""

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from loosely.local import events
from loosely.local.data_directory import (
    RunningSystem,
    StateWriter,
    find_disk_problem,
    lock_directory,
)
from loosely.local.errors import PreparationFailed
from loosely.local.example import ExampleRequest
from loosely.local.launcher import Launcher
from loosely.local.logs import PartLog
from loosely.local.parts import Part
from loosely.local.ports import check_ports
from loosely.local.process_manager import ProcessManager, StartLimits
from loosely.local.reaper import Reaper
from loosely.local.supervisor import SupervisedProcess, SystemSupervisor
from loosely.local.watch import FileWatch, find_code_error

if TYPE_CHECKING:
    from loosely.local.console import StatusDisplay
    from loosely.local.worker_pool import WorkerPoolPlan

_KILLED_EXIT_CODE = 130
_WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The components to run, each of which may depend on those before it."""

    parts: Sequence[Part]
    #: The working directory of the components.
    directory: Path
    data: Path
    #: The gateway's URL.
    url: str
    example: ExampleRequest | None
    #: The model catalogue.
    models: Path
    environment: Mapping[str, str] = field(repr=False)
    worker_pool: "WorkerPoolPlan | None" = None
    #: The directory with the models' modules, or ``None`` to ignore changes.
    watched_code: Path | None = None
    limits: StartLimits = field(default_factory=StartLimits)

    @property
    def shown_parts(self) -> Sequence[Part]:
        """The components to show in the table. A worker pool is shown as one component."""
        if self.worker_pool is None:
            return self.parts
        return (*self.parts, self.worker_pool.part)

    @property
    def logs(self) -> Path:
        """The directory that contains the components' log files."""
        return self.data / "logs"


def run(make_plan: Callable[[], RunPlan], data: Path) -> int:
    """Run the components until Ctrl-C, SIGTERM or SIGHUP, and return the exit code.

    ``make_plan`` is called after the data directory is locked, because it may write files there.
    """
    with lock_directory(data):
        # If an earlier `loosely up` was killed, the file remains, but the components have ended.
        RunningSystem.remove(data)
        plan = make_plan()
        check_ports({name: port for part in plan.parts for name, port in part.ports.items()})
        try:
            return asyncio.run(_supervise(plan))
        finally:
            RunningSystem.remove(data)


def forget_killed_loads(data: Path) -> None:
    """Delete the journals of loads that killed a worker: the models may be repaired by now."""
    shutil.rmtree(data / "locks" / "loads", ignore_errors=True)


async def _supervise(plan: RunPlan) -> int:
    started_at = time.monotonic()
    reaper = Reaper()
    try:
        launcher = Launcher(plan.directory, plan.environment, reaper)
        state = StateWriter(plan.data, plan.logs, plan.url, plan.parts)

        @cache
        def get_display() -> "StatusDisplay":
            # Imports rich at the first event, when the first components have been started.
            from loosely.local.console import StatusDisplay  # noqa: PLC0415

            return StatusDisplay.start(plan.shown_parts)

        def notify(event: events.PartEvent) -> None:
            state.apply(event)
            get_display().show(event)

        manage = partial(_make_manager, plan, launcher, notify, {})
        processes: list[SupervisedProcess] = [manage(part) for part in plan.parts]
        if plan.worker_pool is not None:
            # Imports httpx, which only a pool needs.
            from loosely.local.worker_pool import WorkerPool  # noqa: PLC0415

            processes.append(WorkerPool(plan.worker_pool, manage, notify))
        watch = None
        if plan.watched_code is not None:
            watch = ModelWatch(plan, plan.watched_code, processes, launcher, notify).run

        def check_disk() -> None:
            state.write()
            get_display().show_disk_problem(find_disk_problem(plan.data) or state.problem)

        supervisor = SystemSupervisor(processes, check_disk, watch)
        _stop_on_signals(supervisor, get_display)
        usage = asyncio.create_task(
            _show_usage_when_ready(supervisor, get_display, plan, started_at)
        )
        try:
            await supervisor.run()
        finally:
            usage.cancel()
            await asyncio.gather(usage, return_exceptions=True)
            get_display().freeze()
    finally:
        reaper.close()
    return _KILLED_EXIT_CODE if supervisor.is_killed else 0


class ModelWatch:
    """Restarts the worker when the models' code or their catalogue changes.

    If a file has an error, all components keep running with the files as they were.
    """

    def __init__(
        self,
        plan: RunPlan,
        code: Path,
        processes: Sequence[SupervisedProcess],
        launcher: Launcher,
        notify: events.EventHandler,
    ) -> None:
        """Create the watch. It reports only changes that are made after this call."""
        self._plan = plan
        self._processes = processes
        self._launcher = launcher
        self._notify = notify
        self._files = FileWatch((code, plan.models))

    async def run(self) -> None:
        """Check for changes every half second until this task is cancelled."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            changed = self._files.find_changes()
            if changed and await self._use(changed):
                self._files.accept()

    async def _use(self, changed: Sequence[Path]) -> bool:
        """Let the components use the changed files. Return False if a file has an error."""
        for error in filter(None, map(find_code_error, changed)):
            self._refuse(self._plan.shown_parts[-1], error)
            return False
        reason = f"{changed[0].name} has changed"
        if self._plan.models in changed:
            reason = f"{self._plan.models.name} has changed"
            if not await self._prepare():
                return False
            # Service Bus first, because the gateway sends to the queues.
            await self._restart("servicebus", reason)
            await self._restart("functions", reason)
        await self._restart("worker", reason)
        return True

    async def _prepare(self) -> bool:
        """Make the components' files from the catalogue. Return False if this fails."""
        parts = {part.preparation: part for part in reversed(self._plan.parts)}
        for preparation, part in parts.items():
            if preparation is not None:
                try:
                    await self._launcher.prepare(part, preparation)
                except PreparationFailed as error:
                    self._refuse(part, str(error).removeprefix(f"{part.name}: "))
                    return False
        return True

    def _refuse(self, part: Part, error: str) -> None:
        text = f"keeps running without the change: {error}"
        self._notify(events.PartReport(part, text, "red"))

    async def _restart(self, name: str, reason: str) -> None:
        """Let the component ``name`` read its files again, by a restart if necessary."""
        for part, process in zip(self._plan.shown_parts, self._processes, strict=True):
            if part.name == name and not process.reload(reason):
                await process.halt(reason)
                forget_killed_loads(self._plan.data)
                process.resume()


def _make_manager(
    plan: RunPlan,
    launcher: Launcher,
    notify: events.EventHandler,
    logs: dict[str, PartLog],
    part: Part,
) -> ProcessManager:
    log = logs.get(part.name)
    if log is None:
        log = logs[part.name] = PartLog(plan.logs / f"{part.name}.log")
        log.rotate()
    return ProcessManager(part, log, launcher, notify, limits=plan.limits)


def _stop_on_signals(
    supervisor: SystemSupervisor, get_display: "Callable[[], StatusDisplay]"
) -> None:
    def stop() -> None:
        get_display().announce_stop()
        supervisor.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


async def _show_usage_when_ready(
    supervisor: SystemSupervisor,
    get_display: "Callable[[], StatusDisplay]",
    plan: RunPlan,
    started_at: float,
) -> None:
    await supervisor.wait_until_ready()
    has_gateway = any(part.name == "functions" for part in plan.parts)
    get_display().show_usage(
        seconds=time.monotonic() - started_at,
        url=plan.url if has_gateway else None,
        example=plan.example,
        files={"Models": plan.models, "Logs": plan.logs},
    )
