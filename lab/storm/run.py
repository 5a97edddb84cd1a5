"""Run a storm (a test that kills processes) or a soak (a long storm), and report the results."""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from lab.storm.callers import StormCallers, UnexpectedResponse
from lab.storm.jobs import BrokenPromises, StormJob
from lab.storm.kills import plan_kills
from lab.storm.rig import Rig, RigError, RigOptions, StormEngine, running

_POLL_SECONDS = 0.25
_EMPTY_WITHIN_SECONDS = 60.0
_MAX_SHOWN = 10
_SILENCE_POLL_SECONDS = 0.02


@dataclass
class Storm:
    """A storm: its command-line options, its jobs, and what it has measured so far.

    `python -m lab.storm --help` explains the `options`.
    """

    options: argparse.Namespace
    engine: StormEngine
    jobs: list[StormJob]
    begun: float = field(default_factory=time.monotonic)
    #: A description of each kill; in a soak, of each fault.
    faults: list[str] = field(default_factory=list)
    own_deaths: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    #: The name of the entries of `faults` in the report.
    fault_name: str = "kills"
    notes: list[str] = field(default_factory=list)
    #: For each kill of the worker, when it was and when the model ran the next job (Unix times).
    silences: list[tuple[float, float]] = field(default_factory=list)
    #: Failures other than broken promises, such as the end of the time limit.
    failures: list[str] = field(default_factory=list)

    @property
    def judged(self) -> list[StormJob]:
        """The jobs whose end the report checks: all jobs, unless a subclass returns fewer."""
        return self.jobs

    def say(self, text: str) -> None:
        """Print `text` with the time since the start and the counts of accepted and ended jobs."""
        seconds = time.monotonic() - self.begun
        accepted = sum(job.is_accepted for job in self.judged)
        ended = sum(job.final is not None for job in self.judged)
        print_line(f"{seconds:6.1f} s  {text}: {accepted} jobs accepted, {ended} ended")


AnyStorm = TypeVar("AnyStorm", bound=Storm)


async def submit_between_kills(rig: Rig, run: Storm, queue: "asyncio.Queue[StormJob]") -> None:
    """Kill components one after another, and put an equal part of the jobs before each kill.

    Wait until the callers have submitted all jobs of the queue.
    """
    options, jobs = run.options, list(run.jobs)
    plan = plan_kills(
        options.kills,
        options.seed,
        rig.gateways,
        is_isolated=options.isolated,
        broker=rig.broker,
    )
    share = len(jobs) / (len(plan) + 1)
    async with asyncio.TaskGroup() as silences:
        for number, kill in enumerate(plan):
            for job in jobs[round(number * share) : round((number + 1) * share)]:
                queue.put_nowait(job)
            await asyncio.sleep(kill.delay_seconds)
            await kill.carry_out(rig)
            run.faults.append(str(kill))
            if kill.part == "worker":
                silences.create_task(_record_silence(rig, run))
            run.say(f"kill {number + 1} of {len(plan)}, {kill}")
            await kill.recover(rig)
        for job in jobs[round(len(plan) * share) :]:
            queue.put_nowait(job)
        await queue.join()
        run.say("all jobs are submitted")


async def _record_silence(rig: Rig, run: Storm) -> None:
    """Wait until the model runs another job, for at most `--settle` seconds, and record the time.

    The other job may also be a new one.
    """
    begun_at, before = time.time(), rig.runs().total()
    while True:
        await asyncio.sleep(_SILENCE_POLL_SECONDS)
        now = time.time()
        if rig.runs().total() != before or now > begun_at + run.options.settle:
            run.silences.append((begun_at, now))
            return


async def wait_until_all_ended(run: Storm) -> None:
    """Wait until all accepted jobs have ended.

    If no job ends for the number of seconds in the option `--settle`, print how many jobs are still
    open, and return.
    """
    open_count, changed_at = -1, time.monotonic()
    while left := sum(job.is_open for job in run.judged):
        if left != open_count:
            open_count, changed_at = left, time.monotonic()
        if time.monotonic() - changed_at > run.options.settle:
            run.say(
                f"{left} jobs are still open, and no job has ended for {run.options.settle:g} s"
            )
            return
        await asyncio.sleep(_POLL_SECONDS)
    run.say("all jobs have ended")


async def read_all_again(rig: Rig, run: Storm, callers: StormCallers) -> None:
    """Read each accepted job again, from each gateway host, to find jobs that have changed.

    First wait until all queues are empty. If they are not empty after 60 s, add a note to the
    report, and continue. `StormJob.see` records each ended job whose state has changed.
    """
    end = time.monotonic() + _EMPTY_WITHIN_SECONDS
    while (count := await rig.message_count()) != 0:
        if time.monotonic() > end:
            run.notes.append(f"{count} messages are left in the queues")
            break
        await asyncio.sleep(_POLL_SECONDS)
    accepted = [job for job in run.jobs if job.is_accepted]
    for url in rig.host_urls:
        await callers.read_again(accepted, url)
    run.say("all jobs were read again")


@asynccontextmanager
async def in_background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines during the `with` block, and cancel them afterwards."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()


async def run_scenario(
    scenario: Callable[[Rig, AnyStorm], Awaitable[None]],
    run: AnyStorm,
    data: Path,
    options: RigOptions | None = None,
) -> None:
    """Start a new system, run a scenario on it, and stop the system.

    If the scenario exceeds the time limit or a signal stops it, record this in `run.failures`.
    `data` is the directory for the system's logs and data.

    Raises:
        RigError: if the system could not be started.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(run.options.limit):
            await _run_unlimited(scenario, run, data, options or RigOptions())
    except TimeoutError:
        run.failures.append(
            f"not finished within {run.options.limit:g} s, the time limit of --limit"
        )
    except asyncio.CancelledError:
        run.failures.append("stopped by a signal")


async def _run_unlimited(
    scenario: Callable[[Rig, AnyStorm], Awaitable[None]],
    run: AnyStorm,
    data: Path,
    options: RigOptions,
) -> None:
    try:
        async with running(data, run.engine, options) as rig:
            try:
                await scenario(rig, run)
            finally:
                run.own_deaths, run.runs = rig.own_deaths, rig.runs()
    except* RigError as errors:
        raise RigError("\n".join(_messages(errors))) from None
    except* UnexpectedResponse as errors:
        run.failures += _messages(errors)


def _messages(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for each in error.exceptions for text in _messages(each)]
    return [str(error)]


def report(run: Storm) -> bool:
    """Print the results. Return True if no promise was broken and nothing else failed."""
    broken = BrokenPromises.find(run.judged)
    print_line("")
    for name, value in count(run, broken).items():
        print_line(f"{name:<25} {value}".rstrip())
    for text in [*run.notes, *describe_silences(run)]:
        print_line(text)
    for text in describe_broken(run, broken):
        print_line(text)
    for text in run.failures:
        print_line(f"failed: {text}")
    return not broken and not run.failures


def count(run: Storm, broken: BrokenPromises) -> dict[str, str | int]:
    """Return the rows of a storm's report: the name of each count, and its value."""
    accepted = [job for job in run.judged if job.is_accepted]
    rerun = [job for job in accepted if run.runs[job.label] > 1]
    own_deaths = run.own_deaths
    return {
        "engine": f"{run.engine.name}, {run.engine.host_count} gateway host(s)",
        "accepted": f"{len(accepted)} of {len(run.judged)}",
        "ended": format_statuses(accepted),
        "lost": len(broken.lost),
        "wrong": len(broken.wrong),
        "doubled": len(broken.doubled),
        "expired by a crash": len(broken.expired),
        "queued after cancellation": len(broken.requeued),
        run.fault_name: f"{len(run.faults)}  {format_counts(run.faults)}",
        "deaths without a kill": f"{own_deaths.total()}  {format_counts(own_deaths.elements())}",
        "ran more than once": f"{len(rerun)} jobs" if run.runs else "not counted",
        "unknown at times": sum(job.was_unknown for job in accepted),
        "repeated requests": run.retries,
        "seconds": round(time.monotonic() - run.begun),
        "seed": run.options.seed,
    }


def describe_silences(run: Storm) -> list[str]:
    """Return the line about the silences after kills of the worker, or no line without these.

    A silence counts only while an accepted job is open. Jobs that never ended are not considered;
    the report has them as lost.
    """
    if not run.silences:
        return []
    periods = [job.open_period for job in run.judged if job.final is not None]
    seconds = [open_seconds(begin, end, periods) for begin, end in run.silences]
    found = f"p50 {median(seconds):.1f} s, at most {max(seconds):.1f} s, of {len(seconds)}"
    meaning = "seconds with an open job, until the model ran one"
    return [f"{'silence after a kill':<25} of the worker: {found} ({meaning})"]


def open_seconds(begin: float, end: float, periods: Iterable[tuple[float, float]]) -> float:
    """Return for how many seconds between `begin` and `end` at least one of the periods lasted."""
    seconds, counted_until = 0.0, begin
    for opened_at, ended_at in sorted(periods):
        seconds += max(0.0, min(ended_at, end) - max(opened_at, counted_until))
        counted_until = max(counted_until, ended_at)
    return seconds


def describe_broken(run: Storm, broken: BrokenPromises) -> list[str]:
    """Return lines about the jobs with a broken promise, but at most 10 for each promise."""
    return [
        f"{name}: {_describe(job, run.runs)}"
        for name, jobs in (
            ("lost", broken.lost),
            ("wrong", broken.wrong),
            ("doubled", broken.doubled),
            ("expired by a crash", broken.expired),
            ("queued after cancellation", broken.requeued),
        )
        for job in jobs[:_MAX_SHOWN]
    ]


def _describe(job: StormJob, runs: Counter[str]) -> str:
    parts = [f"job {job.label} ({', '.join(job.ids)}; {job.kind.value}): {job.status}"]
    parts.append(f"reached the model {runs[job.label]} time(s)")
    if job.final is not None:
        parts.append(f"result {job.final['result']}, error {job.final['error']}")
    parts += job.changes[:3] + [f"seen {text} after its cancellation" for text in job.requeued[:3]]
    return "; ".join(parts)


def format_statuses(jobs: Iterable[StormJob]) -> str:
    """Count the jobs in each status, and return the counts as text."""
    return format_counts(job.status for job in jobs) or "none"


def format_counts(names: Iterable[str]) -> str:
    """Count how often each name occurs, and return the counts as text, such as `a 2, b 1`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def print_line(text: str) -> None:
    """Print a line and flush it, so that it appears at once even if the output is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
