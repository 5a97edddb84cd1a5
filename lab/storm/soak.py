"""Load a system with jobs of all kinds for a long time, under faults and attacks (`./dev soak`).

    ./dev soak --minutes 60 --seed 7 --report soak.md
    ./dev soak --minutes 10 --hostile=-many-scans,-brackets --faults kill,stop

The command starts its own system in a temporary directory, on free ports of loopback. The seed
determines the jobs, the faults and the attacks. The exact moments depend on the machine.

The soak begins with a calm part, without faults and attacks. In this part, it measures how long a
caller that sends one small job after another usually waits. The last part has no kills, so that
the processes run long enough to measure their memory. A soak of one hour stores about 5 GB of data.
If the operating system permits it, the data is stored in a tmpfs, which uses memory. Then the soak
can fill this disk on purpose.

Exit code: 0 if each job ended once with the right result, no job expired because of a crash, no
webhook was lost or forged, no job was shown to another tenant, and the processes did not use more
and more memory or open files. 1 if one of these conditions was not met, 2 if the system could not
be started.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from contract.webhook import format_secrets, parse_secrets, tenant_secrets
from gateway.keys import Scope, make_key
from lab.storm.faults import SoakFault, plan_faults
from lab.storm.footprint import MIB, MIN_WARM_UP_SECONDS, Footprint, choose_warm_up
from lab.storm.hostile import ATTACK_SECONDS, SILENT_DOMAIN, Attack, Attacker, choose_attacks
from lab.storm.jobs import StormJob
from lab.storm.kills import Kill
from lab.storm.outside import Outside, WebhookCounts
from lab.storm.rig import ENGINES, LOCAL, Rig, RigError, RigOptions, StormEngine
from lab.storm.run import (
    Storm,
    in_background,
    print_line,
    read_all_again,
    report,
    run_scenario,
    wait_until_all_ended,
)
from lab.storm.small_disk import FileSizeLimit, SmallDisk, Tmpfs, enter_mount_namespace
from lab.storm.soak_callers import (
    Operator,
    Producers,
    ProducerSender,
    SoakCallers,
    SoakNeighbour,
    create_reply_queue,
)
from lab.storm.soak_jobs import (
    TORCH_MODELS,
    ProducerJob,
    SoakCaller,
    SoakJob,
    plan_soak_jobs,
    soak_catalogue,
)
from lab.storm.soak_report import describe_soak, write_report
from loosely.local.environment import read_environment

FAULTS = ("kill", "stop", "slow", "disk")
MODELS = ("noop", "counting", "fragile", "tensor", "classifier", "voice-activity")
_DISK_BYTES = 8 * 1024 * MIB
_MAX_CALM_SECONDS = 60.0
_SAMPLE_SECONDS = 5.0
_AFTER_FAULT_SECONDS = 10.0
_WAITING_SUBMITS = 32
_NEIGHBOURS = {"noop": (0.5, 10_000_000), "classifier": (2.0, 20_000_000)}
_WEBHOOK_SECONDS = 120.0
_SECRET = "whsec_" + base64.b64encode(b"soak" * 8).decode()


@dataclass
class Interval:
    """The time from the beginning to the end of an attack or a fault.

    `begin` and `end` are in seconds since the start of the soak. While the attack or the fault
    lasts, `end` is None.
    """

    name: str
    begin: float
    end: float | None = None


@dataclass
class Soak(Storm):
    """A soak: its options, the jobs that it has submitted, and what it has measured so far."""

    callers: dict[str, SoakCaller] = field(default_factory=dict)
    models: Sequence[str] = MODELS
    attacks: Sequence[Attack] = ()
    disk: SmallDisk | None = None
    producer_jobs: list[ProducerJob] = field(default_factory=list)
    footprint: Footprint = field(default_factory=Footprint)
    attack_times: list[Interval] = field(default_factory=list)
    fault_times: list[Interval] = field(default_factory=list)
    neighbour: SoakNeighbour | None = None
    operator: Operator | None = None
    webhooks: WebhookCounts | None = None
    has_begun: bool = False

    @property
    def judged(self) -> list[StormJob]:
        """The jobs that the report checks: the jobs of callers and of producers."""
        return [*self.jobs, *self.producer_jobs]

    @property
    def soak_jobs(self) -> list[SoakJob]:
        """The jobs that callers have submitted to the gateway, without the jobs of producers."""
        return [job for job in self.jobs if isinstance(job, SoakJob)]

    def register(self, job: SoakJob) -> None:
        """Add a job whose state callers read and whose end the report checks."""
        self.jobs.append(job)

    def find_job(self, job_id: str) -> SoakJob | None:
        """Return the job with this id, or None."""
        return next((job for job in self.soak_jobs if job_id in job.ids), None)

    def describe(self, begin: float) -> tuple[str, bool]:
        """Return the attacks at `begin`, joined by `+`, and whether a fault was near.

        A fault is near if it lasts or has ended less than 10 s earlier. `begin` is in seconds since
        the start of the soak.
        """
        attacks = sorted({each.name for each in self.attack_times if (each.end or begin) >= begin})
        faults = (each.end for each in self.fault_times)
        has_fault = any(end is None or end + _AFTER_FAULT_SECONDS >= begin for end in faults)
        return "+".join(attacks), has_fault

    def seconds(self) -> float:
        """Return the seconds since the start of the soak."""
        return time.monotonic() - self.begun


async def soak(rig: Rig, run: Soak) -> None:
    """Run a soak: first a calm part, then a part with faults and attacks.

    Then wait until all jobs have ended, and read each job again.
    """
    seconds = run.options.minutes * 60
    calm_seconds = min(_MAX_CALM_SECONDS, seconds / 5)
    await rig.start("worker")
    await asyncio.to_thread(create_reply_queue, rig.service_bus_connection, rig.admin_port)
    run.begun = time.monotonic()
    run.has_begun = True
    run.say("every component is ready")
    seed = run.options.seed
    load = [run.callers[name] for name in ("acme", "acme-2", "bolt")]
    async with (
        SoakCallers(rig.url, rig.ran_path, count=16) as callers,
        Outside(seed, _webhook_secrets(load)) as outside,
    ):
        queue: asyncio.Queue[StormJob] = asyncio.Queue(_WAITING_SUBMITS)
        producers = Producers(rig.service_bus_connection, seed)
        run.producer_jobs = producers.jobs
        neighbour = run.neighbour = SoakNeighbour(callers, run.register, run.describe, run.seconds)
        operator = run.operator = Operator(callers, run.callers["operator"], run.register)
        try:
            async with in_background(
                callers.submit_all(queue),
                callers.watch(run.jobs),
                producers.receive(),
                _sample(rig, run),
            ):
                neighbours = [
                    neighbour.run(run.callers["neighbour"], model, *options)
                    for model, options in _NEIGHBOURS.items()
                    if model in run.models
                ]
                async with in_background(
                    _feed(run, queue, load, outside.url),
                    producers.send(1.0),
                    operator.run(run.find_job, 2.0),
                    callers.cross_tenants(lambda: run.soak_jobs, load),
                    *neighbours,
                ):
                    await asyncio.sleep(calm_seconds)
                    run.say("the calm part is over")
                    attacker = _attacker(rig, run, callers, outside.url)
                    async with in_background(_cause_faults(rig, run), _attack(run, attacker)):
                        await asyncio.sleep(seconds - calm_seconds)
                run.say("the load is over")
                await queue.join()
                await wait_until_all_ended(run)
                await _wait_for_webhooks(run, outside)
            await read_all_again(rig, run, callers)
        finally:
            run.retries = callers.retries
            run.failures += [f"unexpected response: {text}" for text in callers.refusals]
            run.webhooks = outside.judge(run.soak_jobs)


def _webhook_secrets(callers: Sequence[SoakCaller]) -> dict[str, str]:
    """Return, for each tenant, the secret that signs the webhooks of this tenant."""
    secrets = parse_secrets(_SECRET)
    return {
        caller.tenant: format_secrets(tenant_secrets(secrets, caller.tenant)) for caller in callers
    }


def _attacker(rig: Rig, run: Soak, callers: SoakCallers, outside_url: str) -> Attacker:
    """Return an attacker that uses the API key of the hostile caller."""

    def victims() -> list[str]:
        # The newest jobs, of which some still run and some have ended.
        return [job.ids[0] for job in run.soak_jobs[-50:] if job.is_accepted and not job.is_hostile]

    return Attacker(
        callers=callers,
        caller=run.callers["mallory"],
        sender=ProducerSender(rig.service_bus_connection),
        gateway_url=rig.url,
        outside_url=outside_url,
        chance=random.Random(f"attacks {run.options.seed}"),
        register=run.register,
        victims=victims,
    )


async def _feed(
    run: Soak, queue: "asyncio.Queue[StormJob]", load: Sequence[SoakCaller], outside_url: str
) -> None:
    """Put new jobs into `queue` at the given rate, as it has room, until cancelled."""
    for job in plan_soak_jobs(run.options.seed, load, run.models, outside_url):
        await queue.put(job)
        run.register(job)
        await asyncio.sleep(1 / run.options.rate)


async def _attack(run: Soak, attacker: Attacker) -> None:
    """Carry out all attacks in random order, again and again, until this task is cancelled."""
    attacks = list(run.attacks)
    while attacks:
        attacker.chance.shuffle(attacks)
        for attack in attacks:
            interval = Interval(attack.name, run.seconds())
            run.attack_times.append(interval)
            with suppress(TimeoutError):
                async with asyncio.timeout(ATTACK_SECONDS):
                    await attack.run(attacker)
            # The requests and messages of the attack still have an effect for some seconds.
            await asyncio.sleep(attacker.chance.uniform(2.0, 8.0))
            interval.end = run.seconds()


async def _cause_faults(rig: Rig, run: Soak) -> None:
    """Cause faults until this task is cancelled, but no kills in the last part of the soak."""
    options = run.options
    quiet_from = options.minutes * 60 * (1 - options.quiet_share)
    plan = plan_faults(
        options.seed, rig.gateways, run.disk, options.faults, 60 / options.faults_per_minute
    )
    async with asyncio.TaskGroup() as faults:
        for fault in plan:
            await asyncio.sleep(fault.delay_seconds)
            if isinstance(fault, Kill) and run.seconds() >= quiet_from:
                continue
            running = faults.create_task(_cause(fault, rig, run))
            if not fault.overlaps:
                await asyncio.wait([running])


async def _cause(fault: SoakFault, rig: Rig, run: Soak) -> None:
    interval = Interval(str(fault), run.seconds())
    run.fault_times.append(interval)
    try:
        await fault.carry_out(rig)
        run.faults.append(interval.name)
        run.say(f"fault {len(run.faults)}, {fault}")
        await fault.recover(rig)
    except (RigError, TimeoutError, OSError) as error:
        run.failures.append(f"no recovery from {fault} at {interval.begin:.0f} s: {error}")
    finally:
        interval.end = run.seconds()


async def _sample(rig: Rig, run: Soak) -> None:
    """At intervals, record the memory and the number of open files of all processes.

    Also shorten long logs. Continue until this task is cancelled.
    """
    while True:
        run.footprint.sample(run.seconds(), rig.processes())
        for member in rig.members.values():
            member.log.limit_size()
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _wait_for_webhooks(run: Soak, outside: Outside) -> None:
    """Wait until all expected webhooks have arrived.

    Return after 120 s at the latest, even if some webhooks are missing.
    """
    end = time.monotonic() + _WEBHOOK_SECONDS
    while time.monotonic() < end:
        if not outside.judge(run.soak_jobs).missing:
            return
        await asyncio.sleep(1.0)


def find_failures(run: Soak) -> list[str]:
    """Return one line for each failure of a soak, except for broken promises about jobs.

    The broken promises are not included because `report` prints them.
    """
    failures = list(dict.fromkeys(run.failures))
    webhooks = run.webhooks
    if webhooks is not None:
        failures += [
            f"{len(numbers)} webhooks are {name}: jobs {numbers[:10]}"
            for name, numbers in (("missing", webhooks.missing), ("wrong", webhooks.wrong))
            if numbers
        ]
        if webhooks.unsigned:
            failures.append(f"{webhooks.unsigned} webhooks had no valid signature")
    options = run.options
    for role in run.footprint.roles(options.warm_up):
        if role.memory and role.memory.grows(options.memory_bound * MIB):
            failures.append(
                f"the memory of {role.role} grows by {role.memory.per_minute / MIB:.1f} MiB a "
                f"minute; the bound is {options.memory_bound:g}"
            )
        if role.files and role.files.grows(options.files_bound):
            failures.append(
                f"the open files of {role.role} grow by {role.files.per_minute:.1f} a minute; "
                f"the bound is {options.files_bound:g}"
            )
    return failures


def _make_callers() -> tuple[dict[str, SoakCaller], str]:
    """Return the callers by name, and the value of the setting API_KEYS with the callers' keys."""
    writing = (Scope.JOBS_READ, Scope.JOBS_WRITE)
    wanted: dict[str, tuple[str, Sequence[Scope]]] = {
        "acme": ("acme", writing),
        "acme-2": ("acme", writing),
        "bolt": ("bolt", writing),
        "neighbour": ("neighbour", writing),
        "mallory": ("mallory", writing),
        "operator": ("operators", (*writing, Scope.ADMIN)),
    }
    made = {name: make_key(name, *options) for name, options in wanted.items()}
    callers = {name: SoakCaller(name, wanted[name][0], key) for name, (key, _) in made.items()}
    return callers, json.dumps([entry for _, entry in made.values()])


def _choose_disk(options: argparse.Namespace, store: Path, *, may_mount: bool) -> SmallDisk | None:
    """Return the disk that the soak can fill.

    Return None if the option `--faults` does not contain `disk`, or if the operating system offers
    no way to fill a disk. `store` is the folder of the data. If `may_mount` is true, this process
    may mount a tmpfs on the folder.
    """
    if "disk" not in options.faults:
        return None
    if may_mount:
        disk = Tmpfs(store, _DISK_BYTES)
        with suppress(OSError):
            disk.mount()
            return disk
    return FileSizeLimit() if sys.platform == "linux" else None


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    names = {"all": list(known), "none": []}.get(text, text.split(","))
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"unknown {what} {', '.join(unknown)}: use {', '.join(known)}")
    return names


def _option(parse: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    def parse_option(text: str) -> list[str]:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_option


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev soak", description="Load a system for a long time, under faults and attacks."
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="time of the load (default: %(default)s)")
    add("--seed", type=int, default=random.randrange(10_000))
    add("--engine", choices=ENGINES, default=LOCAL, help="the durable engine of the gateway hosts")
    add("--rate", type=float, default=3.0, help="jobs per second (%(default)s)")
    add(
        "--models",
        type=_option(lambda text: _names(text, MODELS, "model")),
        default=[name for name in MODELS if name not in TORCH_MODELS or find_spec("torch")],
        metavar="NAMES",
        help="models of the load, separated by commas (default: all; without torch, those "
        "that need no torch)",
    )
    add(
        "--hostile",
        default="all",
        metavar="NAMES",
        help="hostile inputs: all, none, or names separated by commas; =-NAME selects all but NAME",
    )
    add(
        "--faults",
        type=_option(lambda text: _names(text, FAULTS, "fault")),
        default=list(FAULTS),
        metavar="NAMES",
        help=f"all, none, or some of {', '.join(FAULTS)}, separated by commas (default: all)",
    )
    add("--faults-per-minute", type=float, default=3.0, help="(default: %(default)s)")
    add(
        "--quiet-share",
        type=float,
        default=1 / 3,
        help="share of the time, at the end, without kills (default: a third)",
    )
    add("--report", type=Path, metavar="FILE", help="write the report: FILE.md or FILE.json")
    add(
        "--warm-up",
        type=float,
        metavar="SECONDS",
        help="time after the start of a process that is not measured (default: a quarter of the "
        f"part without kills, but at least {MIN_WARM_UP_SECONDS:g})",
    )
    add(
        "--memory-bound",
        type=float,
        default=2.0,
        metavar="MIB",
        help="how fast the memory of a process may grow, in MiB per minute (%(default)s)",
    )
    add(
        "--files-bound",
        type=float,
        default=1.0,
        metavar="FILES",
        help="how fast the open files of a process may grow per minute (%(default)s)",
    )
    add(
        "--settle",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="after the load, give up if no job ends for this time (%(default)s)",
    )
    add(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="time limit of the run (default: --minutes and 15 min)",
    )
    add(
        "--data", type=Path, help="directory of the logs, which is not deleted (default: temporary)"
    )
    options = parser.parse_args(arguments)
    if not (options.minutes > 0 and options.rate > 0 and options.faults_per_minute > 0):
        parser.error("--minutes, --rate and --faults-per-minute must be positive")
    try:
        options.attacks = choose_attacks(options.hostile, options.models)
    except ValueError as error:
        parser.error(str(error))
    if options.warm_up is None:
        options.warm_up = choose_warm_up(options.minutes * 60 * options.quiet_share)
    if options.limit is None:
        options.limit = options.minutes * 60 + 900
    return options


def main(arguments: list[str], *, may_mount: bool = False) -> int:
    """Run a soak, and return the exit code.

    `may_mount` is true if this process has a mount namespace of its own.
    """
    options = _options(arguments)
    callers, keys = _make_callers()
    run = Soak(
        options,
        StormEngine(name=options.engine, seed=options.seed),
        [],
        fault_name="faults",
        callers=callers,
        models=options.models,
        attacks=options.attacks,
    )
    data = options.data or Path(tempfile.mkdtemp(prefix="loosely-soak-"))
    data.mkdir(parents=True, exist_ok=True)
    data = data.resolve()
    store = data / "store"
    run.disk = _choose_disk(options, store, may_mount=may_mount)
    environment = read_environment()
    path = [str(Path(__file__).parent / "resolver"), environment.get("PYTHONPATH", "")]
    rig_options = RigOptions(
        catalogue=soak_catalogue(),
        environment={
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "SOAK_SILENT_DOMAIN": SILENT_DOMAIN,
            "API_KEYS": keys,
            "WEBHOOK_SECRETS": _SECRET,
            "GUARD_ALLOW": "127.0.0.1",
            "WORKER_MODELS": ",".join(options.models),
        },
        has_links=True,
        store=store,
    )
    print_line(f"seed {options.seed}, logs in {data / 'logs'}")
    is_good = False
    try:
        try:
            asyncio.run(run_scenario(soak, run, data, rig_options))
        except RigError as error:
            if not run.has_begun:
                print_line(f"dev: {error}")
                return 2
            run.failures.append(str(error))
        except Exception as error:  # noqa: BLE001  the report of an hour must not be lost
            traceback.print_exc()
            run.failures.append(f"the soak itself failed: {error!r}")
        run.failures = find_failures(run)
        is_good = report(run)
        for line in describe_soak(run):
            print_line(line)
        if options.report:
            write_report(run, options.report)
    finally:
        if isinstance(run.disk, Tmpfs):
            run.disk.unmount()
        # Keep the logs of a failed run.
        if is_good and options.data is None:
            shutil.rmtree(data, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    _command = [sys.executable, "-m", "lab.storm.soak", *sys.argv[1:]]
    _may_mount = enter_mount_namespace(_command, read_environment())
    sys.exit(main(sys.argv[1:], may_mount=_may_mount))
