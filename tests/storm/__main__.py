"""Kill a system's components at random moments, then check each job (`./dev storm`).

    ./dev storm --engine azure-storage --jobs 500 --kills 20 --seed 7
    ./dev storm --engine azure-storage --cancel 200

The command starts its own system in a temporary directory on free ports. The seed determines which
jobs are submitted, which components are killed, and the pauses. The exact moments depend on the
machine.

Exit code: 0 if every promise was kept, 1 if a promise was broken, 2 if the system could not be
started.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storm.callers import StormCallers, UnexpectedResponse
from tests.storm.jobs import BrokenPromises, StormJob, plan_cancellations, plan_jobs
from tests.storm.kills import Kill, plan_kills
from tests.storm.rig import AZURE_STORAGE, ENGINES, LOCAL, Rig, RigError, StormEngine, running

_POLL_SECONDS = 0.25
_EMPTY_WITHIN_SECONDS = 60.0
_MAX_SHOWN = 10


@dataclass
class Storm:
    """The options and the current results of a storm. `report` prints them at any time."""

    options: argparse.Namespace
    engine: StormEngine
    jobs: list[StormJob]
    begun: float = field(default_factory=time.monotonic)
    kills: list[Kill] = field(default_factory=list)
    own_deaths: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    notes: list[str] = field(default_factory=list)
    #: Failures other than broken promises, such as the end of the time limit.
    failures: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Print `text` with the time since the start and the counts of accepted and ended jobs."""
        seconds = time.monotonic() - self.begun
        accepted = sum(job.is_accepted for job in self.jobs)
        ended = sum(job.final is not None for job in self.jobs)
        _print(f"{seconds:6.1f} s  {text}: {accepted} jobs accepted, {ended} ended")


async def storm(rig: Rig, run: Storm) -> None:
    """Submit one share of the jobs before each kill, and the last share after the last kill.

    Wait until all jobs end, and then read all jobs again.
    """
    plan = plan_kills(run.options.kills, run.options.seed, rig.gateways)
    await rig.start("worker")
    run.say("every component is ready")
    async with StormCallers(rig.url, rig.ran_path) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        async with _in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            share = len(run.jobs) / (len(plan) + 1)
            for number, kill in enumerate(plan):
                for job in run.jobs[round(number * share) : round((number + 1) * share)]:
                    queue.put_nowait(job)
                await asyncio.sleep(kill.delay_seconds)
                await kill.carry_out(rig)
                run.kills.append(kill)
                run.say(f"kill {number + 1} of {len(plan)}, {kill}")
                await kill.recover(rig)
            for job in run.jobs[round(len(plan) * share) :]:
                queue.put_nowait(job)
            await queue.join()
            run.say("all jobs are submitted")
            await _all_ended(run)
        await _read_all_again(rig, run, callers)
        run.retries = callers.retries


async def cancellations(rig: Rig, run: Storm) -> None:
    """Cancel each job right after the response 202: first without a worker, then with a worker."""
    half = len(run.jobs) // 2
    run.say("every component except the worker is ready")
    async with StormCallers(rig.url, rig.ran_path) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        async with _in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            for phase, jobs in (
                ("without a worker", run.jobs[:half]),
                ("with a worker", run.jobs[half:]),
            ):
                if phase == "with a worker":
                    await rig.start("worker")
                for job in jobs:
                    queue.put_nowait(job)
                await queue.join()
                await _all_ended(run)
                run.notes.append(f"{phase}: {_statuses(jobs)} of {half}")
                run.say(run.notes[-1])
                is_cancelled = [bool(j.final and j.final["status"] == "cancelled") for j in jobs]
                if phase == "without a worker" and not all(is_cancelled):
                    run.failures.append(
                        f"{is_cancelled.count(False)} jobs were not cancelled, {phase}"
                    )
        await _read_all_again(rig, run, callers)
        run.retries = callers.retries


async def _all_ended(run: Storm) -> None:
    """Wait until all accepted jobs have ended. Give up if none ends for `--settle` seconds."""
    open_count, changed_at = -1, time.monotonic()
    while left := sum(job.is_open for job in run.jobs):
        if left != open_count:
            open_count, changed_at = left, time.monotonic()
        if time.monotonic() - changed_at > run.options.settle:
            run.say(
                f"{left} jobs are still open, and no job has ended for {run.options.settle:g} s"
            )
            return
        await asyncio.sleep(_POLL_SECONDS)
    run.say("all jobs have ended")


async def _read_all_again(rig: Rig, run: Storm, callers: StormCallers) -> None:
    """Read each accepted job again from each host, after all queues are empty or after 60 s.

    `StormJob.see` records each final job that has changed.
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
async def _in_background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()


async def _run(scenario: Callable[[Rig, Storm], Awaitable[None]], run: Storm, data: Path) -> None:
    """Run a scenario on its own system.

    Record a failure if the time limit passes or a signal stops the scenario.

    Raises:
        RigError: if the system could not be started.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(run.options.limit):
            await _run_unlimited(scenario, run, data)
    except TimeoutError:
        run.failures.append(
            f"not finished within {run.options.limit:g} s, the time limit of --limit"
        )
    except asyncio.CancelledError:
        run.failures.append("stopped by a signal")


async def _run_unlimited(
    scenario: Callable[[Rig, Storm], Awaitable[None]], run: Storm, data: Path
) -> None:
    try:
        async with running(data, run.engine) as rig:
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
    broken = BrokenPromises.find(run.jobs)
    accepted = [job for job in run.jobs if job.is_accepted]
    rerun = [job for job in accepted if run.runs[job.label] > 1]
    lines = {
        "engine": f"{run.engine.name}, {run.engine.host_count} gateway host(s)",
        "accepted": f"{len(accepted)} of {len(run.jobs)}",
        "ended": _statuses(accepted),
        "lost": len(broken.lost),
        "wrong": len(broken.wrong),
        "doubled": len(broken.doubled),
        "expired by a crash": len(broken.expired),
        "queued after cancellation": len(broken.requeued),
        "kills": f"{len(run.kills)}  {_counts(map(str, run.kills))}",
        "deaths without a kill": f"{run.own_deaths.total()}  {_counts(run.own_deaths.elements())}",
        "ran more than once": f"{len(rerun)} jobs",
        "unknown at times": sum(job.was_unknown for job in accepted),
        "repeated requests": run.retries,
        "seconds": round(time.monotonic() - run.begun),
        "seed": run.options.seed,
    }
    _print("")
    for name, value in lines.items():
        _print(f"{name:<25} {value}".rstrip())
    for text in run.notes:
        _print(text)
    for name, jobs in (
        ("lost", broken.lost),
        ("wrong", broken.wrong),
        ("doubled", broken.doubled),
        ("expired by a crash", broken.expired),
        ("queued after cancellation", broken.requeued),
    ):
        for job in jobs[:_MAX_SHOWN]:
            _print(f"{name}: {_describe(job, run.runs)}")
    for text in run.failures:
        _print(f"failed: {text}")
    return not broken and not run.failures


def _describe(job: StormJob, runs: Counter[str]) -> str:
    parts = [f"job {job.label} ({', '.join(job.ids)}; {job.kind.value}): {job.status}"]
    parts.append(f"reached the model {runs[job.label]} time(s)")
    if job.final is not None:
        parts.append(f"result {job.final['result']}, error {job.final['error']}")
    parts += job.changes[:3] + [f"seen {text} after its cancellation" for text in job.requeued[:3]]
    return "; ".join(parts)


def _statuses(jobs: Iterable[StormJob]) -> str:
    return _counts(job.status for job in jobs) or "none"


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev storm", description="Kill components at random under load, and check each job."
    )
    add = parser.add_argument
    add("--engine", choices=ENGINES, default=LOCAL, help="the durable engine of the gateway hosts")
    add("--jobs", type=int, default=200, help="jobs to submit (default: %(default)s)")
    add("--kills", type=int, default=10, help="number of kills (default: %(default)s)")
    add(
        "--cancel",
        type=int,
        metavar="N",
        help="instead of a storm, cancel N jobs without and N with a worker, right after their 202",
    )
    add("--cancel-share", type=float, default=0.1, help="share of cancelled jobs (%(default)s)")
    add("--seed", type=int, default=random.randrange(10_000))
    add("--visibility-timeout", type=float, default=10.0, metavar="SECONDS")
    rates = f"only for the {AZURE_STORAGE} engine (default: 0.005; with --cancel: 0)"
    add("--crash-rate", type=float, help=f"share of crash points at which a host dies, {rates}")
    add("--split-brain-rate", type=float, help=f"share of episodes that two hosts run, {rates}")
    add(
        "--settle",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="give up if no job ends for this time (%(default)s)",
    )
    add(
        "--limit",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="time limit of the run (%(default)s)",
    )
    add(
        "--data",
        type=Path,
        help="directory for the system, which is kept (default: temporary)",
    )
    return parser.parse_args(arguments)


def _engine(options: argparse.Namespace) -> StormEngine:
    rate = 0.005 if options.cancel is None else 0.0
    crash_rate, split_brain_rate = options.crash_rate, options.split_brain_rate
    return StormEngine(
        name=options.engine,
        visibility_timeout_seconds=options.visibility_timeout,
        crash_rate=rate if crash_rate is None else crash_rate,
        split_brain_rate=rate if split_brain_rate is None else split_brain_rate,
        seed=options.seed,
    )


def main(arguments: list[str]) -> int:
    """Run a storm or cancellations, and return the exit code."""
    options = _options(arguments)
    if options.cancel is None:
        scenario, jobs = storm, plan_jobs(options.jobs, options.seed, options.cancel_share)
    else:
        scenario, jobs = cancellations, plan_cancellations(2 * options.cancel)
    run = Storm(options, _engine(options), jobs)
    data = options.data or Path(tempfile.mkdtemp(prefix="loosely-storm-"))
    data.mkdir(parents=True, exist_ok=True)
    _print(f"seed {options.seed}, logs in {data / 'logs'}")
    is_good = False
    try:
        asyncio.run(_run(scenario, run, data.resolve()))
        is_good = report(run)
    except RigError as error:
        _print(f"dev: {error}")
        return 2
    finally:
        # Keep the logs of a failed run.
        if is_good and options.data is None:
            shutil.rmtree(data, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
