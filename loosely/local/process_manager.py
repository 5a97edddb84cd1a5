"""Keep one component running: start, probe, restart and stop the component's process."""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from loosely.local import events
from loosely.local.errors import PORT_BUSY_EXIT_CODE, USAGE_EXIT_CODE, PartFailed, PartPortBusy
from loosely.local.launcher import Launcher
from loosely.local.logs import LogReader, PartLog, split_entries
from loosely.local.parts import Part
from loosely.local.probe import Probe, get_json, wait_until_ready
from loosely.local.reaper import kill_group

_SHOWN_LOG_LINES = 12
_MODELS_SECONDS = 2.0
_TRACEBACK = "Traceback (most recent call last)"
_SHOWN_TRACEBACK_LINES = 24


@dataclass(frozen=True, slots=True)
class StartLimits:
    """When the start of a component is reported, or given up."""

    #: After so many deaths in a row before it is ready, the user is informed.
    failing_deaths: int = 3
    #: After so many ends in a row because of its settings or its port, it is not restarted.
    permanent_deaths: int = 2
    #: A longer start is reported, and again whenever the time has doubled.
    slow_after_seconds: float = 20.0


@dataclass(slots=True)
class RestartBackoff:
    """The delays before a restart, which double after each short run, up to a limit."""

    first_seconds: float = 0.1
    limit_seconds: float = 5.0
    failing_limit_seconds: float = 15.0
    reset_after_seconds: float = 60.0
    _next_seconds: float = 0.0

    def next_delay(self, uptime_seconds: float, *, is_failing: bool = False) -> float:
        """Return the number of seconds to wait before the next restart."""
        if uptime_seconds >= self.reset_after_seconds:
            self._next_seconds = 0.0
        limit_seconds = self.failing_limit_seconds if is_failing else self.limit_seconds
        delay_seconds = min(self._next_seconds or self.first_seconds, limit_seconds)
        self._next_seconds = delay_seconds * 2
        return delay_seconds


@dataclass(slots=True)
class ProcessManager:
    """Keeps one component running until `stop` is called. `run` is a task, which `stop` gets."""

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
    #: Whether the current process is ready.
    _is_ready: bool = False
    #: Whether `halt` has ended the process. Reset when this end has been noticed.
    _is_halted: bool = False
    #: Cleared between `halt` and `resume`.
    _may_run: asyncio.Event = field(default_factory=asyncio.Event)
    #: Deaths in a row, each before the component was ready.
    _early_deaths: int = 0
    #: Ends in a row because the settings are invalid or the port is taken.
    _refusals: int = 0
    _process: Process | None = None
    _broken_models: dict[str, str] = field(default_factory=dict)
    #: The tracebacks that were reported. The same one is not reported again.
    _shown_errors: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Allow `run` to start the component, until `halt` is called."""
        self._may_run.set()

    async def run(self) -> None:
        """Start the component, and restart it when it dies, until `stop` is called.

        Raises PreparationFailed, or PartFailed as `_count_death` does.
        """
        if self.part.preparation is not None:
            await self.launcher.prepare(self.part, self.part.preparation)
        while True:
            await self._may_run.wait()
            started_at = self.clock()
            try:
                self._process = process = await self.launcher.launch(self.part, self.log)
            except OSError as error:
                # For example, the machine does not have enough memory for another process.
                delay_seconds = self.backoff.next_delay(0.0)
                text = f"could not be started ({error.strerror or error}); tries again in"
                self._report(f"{text} {delay_seconds:.1f} s", "red")
                await asyncio.sleep(delay_seconds)
                continue
            self.notify(events.PartStarted(self.part, process.pid))
            try:
                await self._wait_for_end(process, started_at)
            finally:
                self._process = None
                self._is_ready = False
                self.launcher.clean_up(process)
            if self._is_stopping:
                return
            if self._is_halted:
                self._is_halted = False
                self._early_deaths = 0
                continue
            exit_code = process.returncode
            assert exit_code is not None
            self._count_death(exit_code)
            is_failing = self._early_deaths >= self.limits.failing_deaths
            delay_seconds = self.backoff.next_delay(
                self.clock() - started_at, is_failing=is_failing
            )
            self.notify(events.PartDied(self.part, exit_code, self.log.last_line(), delay_seconds))
            if self._early_deaths == self.limits.failing_deaths:
                lines = tuple(self.log.tail(_SHOWN_LOG_LINES))
                self.notify(events.PartFailing(self.part, self._early_deaths, lines))
            await asyncio.sleep(delay_seconds)

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """Stop the component, and wait until ``run``, the task of the method `run`, has ended.

        It is killed after its ``drain_seconds``, or as soon as ``kill`` is set.
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
        is_killed = await self._end(process, run, kill)
        self.notify(events.PartStopped(self.part, self.clock() - asked_at, is_killed))

    async def halt(self, reason: str) -> None:
        """Stop the component because of ``reason``. It is not started before `resume` is called."""
        self._may_run.clear()
        process = self._process
        self._shown_errors.clear()
        if process is not None:
            self._is_halted = True
            self.notify(events.PartHalted(self.part, reason))
            ended = asyncio.create_task(process.wait())
            await self._end(process, ended, asyncio.Event())

    def reload(self, reason: str) -> bool:
        """Let the component read its changed files. Return False if it must be restarted."""
        if self._process is None or not (self.part.can_reload and self._is_ready):
            return False
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)
        self._report(f"reads its files again: {reason}", "cyan")
        return True

    def resume(self) -> None:
        """Start the component again after `halt`."""
        self._may_run.set()

    async def _end(self, process: Process, ended: "asyncio.Task[Any]", kill: asyncio.Event) -> bool:
        """Terminate ``process``, and wait for its task ``ended``. Return whether it was killed."""
        with suppress(ProcessLookupError):
            process.terminate()
        killing = asyncio.create_task(kill.wait())
        await asyncio.wait(
            [ended, killing],
            timeout=self.part.drain_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        killing.cancel()
        is_killed = not ended.done()
        if is_killed:
            kill_group(process.pid)
            await asyncio.wait([ended])
        return is_killed

    def _report(self, text: str, style: str) -> None:
        self.notify(events.PartReport(self.part, text, style))

    def limit_logs(self) -> None:
        """Truncate a log that is too large."""
        self.log.limit_size()

    async def _wait_for_end(self, process: Process, started_at: float) -> None:
        """Wait until ``process`` has ended. Meanwhile, report when the component becomes ready."""
        ended = asyncio.create_task(process.wait())
        watches = [asyncio.create_task(self._wait_until_ready(started_at))]
        if self.part.models is not None:
            watches.append(asyncio.create_task(self._watch_models(self.part.models)))
            watches.append(asyncio.create_task(self._watch_errors(self.log.read_run())))
        self._early_deaths += 1  # reset when the component is ready
        try:
            await ended
        except BaseException:
            # This task was cancelled, so kill the process.
            kill_group(process.pid)
            await asyncio.shield(ended)
            raise
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _wait_until_ready(self, started_at: float) -> None:
        """Probe the component until it is ready, and report a slow start."""
        probing = asyncio.create_task(wait_until_ready(self.part.probe))
        patience_seconds = self.limits.slow_after_seconds
        try:
            while True:
                left_seconds = patience_seconds - (self.clock() - started_at)
                await asyncio.wait([probing], timeout=max(left_seconds, 0.0))
                if probing.done():
                    break
                line = self.log.last_line()
                text = f"is not ready after {self.clock() - started_at:.0f} s"
                self._report(f"{text}; last log line: {line}" if line else text, "yellow")
                patience_seconds *= 2
        finally:
            probing.cancel()
        seconds, is_restart = self.clock() - started_at, self.has_been_ready.is_set()
        self._early_deaths = self._refusals = 0
        self._is_ready = True
        self.notify(events.PartReady(self.part, seconds, is_restart))
        self.has_been_ready.set()

    async def _watch_models(self, page: Probe) -> None:
        """Report when the component cannot load a model, and when it later loads this model."""
        while True:
            broken, served = _read_models(await get_json(page))
            for model, reason in broken.items():
                if self._broken_models.get(model) != reason:
                    self._broken_models[model] = reason
                    text = f"the model {model} is set aside, the others are served: {reason}"
                    self._report(text, "red")
            # After a restart, the page shows a model as neither broken nor loaded until its first
            # load has ended. So only a loaded model is reported as restored.
            for model in sorted(self._broken_models.keys() & served):
                del self._broken_models[model]
                self._report(f"the model {model} is served again", "green")
            await asyncio.sleep(_MODELS_SECONDS)

    async def _watch_errors(self, log: LogReader) -> None:
        """Report each new traceback in the component's log, so that an author sees it at once."""
        while True:
            await asyncio.sleep(_MODELS_SECONDS)
            for heading, *lines in split_entries(log.read_new()):
                key = hash(tuple(lines))
                if key not in self._shown_errors and any(_TRACEBACK in line for line in lines):
                    self._shown_errors.add(key)
                    shown = (heading, *lines[-_SHOWN_TRACEBACK_LINES:])
                    self.notify(events.ErrorLogged(self.part, shown))

    def _count_death(self, exit_code: int) -> None:
        """Raise PartFailed if a component that was never ready ended for its settings or its port.

        One such exit code alone is no error: a model's code may end a worker with any exit code.
        """
        if self.has_been_ready.is_set() or exit_code not in {PORT_BUSY_EXIT_CODE, USAGE_EXIT_CODE}:
            self._refusals = 0
            return
        self._refusals += 1
        if self._refusals < self.limits.permanent_deaths:
            return
        kind, what = PartFailed, "ended because its settings are invalid"
        if exit_code == PORT_BUSY_EXIT_CODE:
            kind, what = PartPortBusy, "could not listen on its port, which is taken"
        lines = "\n".join(f"  {line}" for line in self.log.tail(_SHOWN_LOG_LINES))
        raise kind(
            f"{self.part.name} {what} ({events.describe_exit(exit_code)}); the last lines of its "
            f"log {self.log.path}:\n{lines or '  (empty)'}"
        )


def _read_models(document: object) -> tuple[dict[str, str], set[str]]:
    """Return why each broken model could not be loaded, and which models are loaded."""
    match document:
        case {"models": dict(models)}:
            states = {str(name): state for name, state in models.items() if isinstance(state, dict)}
        case _:
            states = {}
    broken = {
        name: f"{problem.get('detail')} ({problem.get('code')})"
        for name, state in states.items()
        if state.get("set_aside") and isinstance(problem := state.get("problem"), dict)
    }
    return broken, {name for name, state in states.items() if state.get("loaded")}
