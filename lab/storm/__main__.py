"""Kill a system's components at random moments, then check each job (`./dev storm`).

    ./dev storm --engine azure-storage --jobs 500 --kills 20 --seed 7
    ./dev storm --engine azure-storage --gateways 3 --jobs 500 --kills 20
    ./dev storm --broker rabbitmq --jobs 500 --kills 20
    ./dev storm --engine azure-storage --cancel 200
    ./dev storm --throttle 120 --jobs 500
    ./dev storm --killers 20 --jobs 400
    ./dev storm --streams 60 --kills 40 --store redis
    ./dev storm --batches 3 --lines 1000 --kills 40
    ./dev storm --tenants 4 --jobs 800 --kills 40

With `--streams N`, the jobs are N chats with an engine, whose readers must get each event once.
With `--batches N`, the jobs are the lines of N batches, each of which must be once in its output.
With `--tenants N`, N tenants submit more than the worker can run, so that most jobs wait in the
waiting room, which must be empty at the end.

Three options run another test, in which no component is killed. With `--cancel N`, N jobs are
cancelled while no worker runs, and N jobs while a worker runs, each job right after the response
202. With `--throttle SECONDS`, Service Bus refuses all requests for SECONDS, and then two of three
requests until all jobs have ended. With `--killers N`, N of the jobs kill their worker.

The command starts its own system in a temporary directory on free ports. The seed determines which
jobs are submitted, which components are killed, and the time between two kills. The exact moments
depend on the machine.

The exit code is 0 if the system kept the promises in DESIGN.md for each job, 1 if it broke a
promise, and 2 if the system could not be started.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from lab.storm.batches import BatchStorm, plan_batches
from lab.storm.callers import StormCallers
from lab.storm.jobs import StormJob, plan_cancellations, plan_jobs
from lab.storm.killers import OPTIONS as KILLERS_OPTIONS
from lab.storm.killers import killers, plan_killers
from lab.storm.rig import AZURE_STORAGE, ENGINES, LOCAL, Rig, RigError, RigOptions, StormEngine
from lab.storm.run import (
    Storm,
    format_statuses,
    in_background,
    print_line,
    read_all_again,
    report,
    run_scenario,
    submit_between_kills,
    wait_until_all_ended,
)
from lab.storm.streams import STORES, StreamStorm, plan_streams
from lab.storm.tenants import TenantStorm
from lab.storm.throttling import OPTIONS as THROTTLING_OPTIONS
from lab.storm.throttling import throttling
from loosely.local.parts import BROKERS


async def storm(rig: Rig, run: Storm) -> None:
    """Kill components of the system one after another while jobs are submitted and run.

    An equal part of the jobs is submitted before each kill and after the last kill. Then wait until
    all jobs have ended, and read all jobs again. `rig` runs the system that is tested.
    """
    await rig.start("worker")
    run.say("every component is ready")
    async with StormCallers(rig.url, rig.ran_path) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        async with in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            await submit_between_kills(rig, run, queue)
            await wait_until_all_ended(run)
        await read_all_again(rig, run, callers)
        run.retries = callers.retries


async def cancellations(rig: Rig, run: Storm) -> None:
    """Submit jobs and cancel each job right after the response 202.

    The first half of the jobs is cancelled while no worker runs, and the second half while a worker
    runs. `rig` runs the system that is tested.
    """
    half = len(run.jobs) // 2
    run.say("every component except the worker is ready")
    async with StormCallers(rig.url, rig.ran_path) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        async with in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            for phase, jobs in (
                ("without a worker", run.jobs[:half]),
                ("with a worker", run.jobs[half:]),
            ):
                if phase == "with a worker":
                    await rig.start("worker")
                for job in jobs:
                    queue.put_nowait(job)
                await queue.join()
                await wait_until_all_ended(run)
                run.notes.append(f"{phase}: {format_statuses(jobs)} of {half}")
                run.say(run.notes[-1])
                is_cancelled = [bool(j.final and j.final["status"] == "cancelled") for j in jobs]
                if phase == "without a worker" and not all(is_cancelled):
                    run.failures.append(
                        f"{is_cancelled.count(False)} jobs were not cancelled, {phase}"
                    )
        await read_all_again(rig, run, callers)
        run.retries = callers.retries


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev storm", description="Kill components at random under load, and check each job."
    )
    add = parser.add_argument
    add("--engine", choices=ENGINES, default=LOCAL, help="the durable engine of the gateway hosts")
    add(
        "--isolated",
        action="store_true",
        help="run each gateway's app in a process beside its host, and kill these processes, too",
    )
    add(
        "--gateways",
        type=int,
        metavar="N",
        help=f"gateway hosts, only for the {AZURE_STORAGE} engine (default: 2)",
    )
    add("--broker", choices=BROKERS, default=BROKERS[0], help="the broker (%(default)s)")
    add("--jobs", type=int, default=200, help="jobs to submit (default: %(default)s)")
    add("--kills", type=int, default=10, help="number of kills (default: %(default)s)")
    add(
        "--cancel",
        type=int,
        metavar="N",
        help="instead of a storm, cancel N jobs without and N with a worker, right after their 202",
    )
    add(
        "--throttle",
        type=float,
        metavar="SECONDS",
        help="instead of a storm, let Service Bus refuse all requests for SECONDS, and then two of"
        " three until all jobs have ended",
    )
    add(
        "--killers",
        type=int,
        metavar="N",
        help="instead of a storm, let N of the jobs kill their worker",
    )
    add(
        "--streams",
        type=int,
        metavar="N",
        help="instead of other jobs, follow N streams of an engine, which is killed too",
    )
    add(
        "--batches",
        type=int,
        metavar="N",
        help="instead of other jobs, run N batches",
    )
    add(
        "--tenants", type=int, metavar="N", help="let N tenants submit more than the worker can run"
    )
    add("--lines", type=int, default=1000, help="lines of each batch (%(default)s)")
    add("--store", choices=STORES, default=STORES[0], help="the store of streams (%(default)s)")
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
    options = parser.parse_args(arguments)
    if options.gateways is not None and options.engine != AZURE_STORAGE:
        parser.error(f"several gateway hosts need --engine {AZURE_STORAGE}")
    return options


def _engine(options: argparse.Namespace) -> StormEngine:
    others = (options.cancel, options.throttle, options.killers, options.streams)
    rate = 0.005 if all(each is None for each in others) else 0.0
    crash_rate, split_brain_rate = options.crash_rate, options.split_brain_rate
    return StormEngine(
        name=options.engine,
        visibility_timeout_seconds=options.visibility_timeout,
        crash_rate=rate if crash_rate is None else crash_rate,
        split_brain_rate=rate if split_brain_rate is None else split_brain_rate,
        seed=options.seed,
        gateways=options.gateways or 2,
    )


def main(arguments: list[str]) -> int:
    """Run the test that the options select, and return the exit code."""
    options = _options(arguments)
    rig_options = RigOptions()
    if options.throttle is not None:
        scenario, jobs = throttling, plan_jobs(options.jobs, options.seed, 0.0)
        rig_options = THROTTLING_OPTIONS
    elif options.killers is not None:
        scenario, jobs = killers, plan_killers(options.jobs, options.killers, options.seed)
        rig_options = KILLERS_OPTIONS
    elif options.streams is not None:
        streams = StreamStorm(options.store)
        scenario, jobs = streams.run, [*plan_streams(options.streams, options.seed)]
        rig_options = streams.options
    elif options.batches is not None:
        batches = BatchStorm(plan_batches(options.batches, options.lines, options.seed))
        scenario, jobs = batches.run, batches.jobs
    elif options.tenants is not None:
        tenants = TenantStorm(options.tenants, options.jobs, options.seed, options.cancel_share)
        scenario, jobs = tenants.run, tenants.jobs
        rig_options = tenants.options
    elif options.cancel is None:
        scenario, jobs = storm, plan_jobs(options.jobs, options.seed, options.cancel_share)
    else:
        scenario, jobs = cancellations, plan_cancellations(2 * options.cancel)
    rig_options = replace(rig_options, is_isolated=options.isolated, broker=options.broker)
    run = Storm(options, _engine(options), jobs)
    data = options.data or Path(tempfile.mkdtemp(prefix="loosely-storm-"))
    data.mkdir(parents=True, exist_ok=True)
    print_line(f"seed {options.seed}, logs in {data / 'logs'}")
    is_good = False
    try:
        asyncio.run(run_scenario(scenario, run, data.resolve(), rig_options))
        is_good = report(run)
    except RigError as error:
        print_line(f"dev: {error}")
        return 2
    finally:
        # Keep the logs of a failed run.
        if is_good and options.data is None:
            shutil.rmtree(data, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
