"""One run of ``up``: own the data directory, check ports, supervise, tell."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from loosely.up import console as board
from loosely.up import events, ports
from loosely.up.data import RunningSystem, own
from loosely.up.fleet import Fleet, FleetPlan
from loosely.up.guard import Guard
from loosely.up.keeper import Keeper, Patience
from loosely.up.launcher import Launcher
from loosely.up.logs import PartLog
from loosely.up.parts import Part
from loosely.up.record import Record
from loosely.up.supervisor import Member, Supervisor

_KILLED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, where, and what to say about it.

    ``parts`` are in the order in which they rely on one another.
    """

    parts: Sequence[Part]
    directory: Path
    data: Path
    url: str
    picture: Path
    environment: Mapping[str, str] = field(repr=False)
    #: What comes after the parts, in changing numbers.
    fleet: FleetPlan | None = None
    patience: Patience = field(default_factory=Patience)

    @property
    def shown(self) -> Sequence[Part]:
        """What is shown while it starts."""
        return self.parts if self.fleet is None else (*self.parts, self.fleet.part)

    @property
    def logs(self) -> Path:
        """Where the parts' logs lie."""
        return self.data / "logs"


def run(plan_for: Callable[[], Plan], data: Path, console: Console) -> int:
    """Run a plan on ``data`` until Ctrl-C, SIGTERM or SIGHUP; return the exit code.

    The plan is made once the directory is ours, for it may write there.

    Raises:
        UpError: it could not start, or a part could not.
    """
    with own(data):
        # A killed `up` leaves its record, but what it names is gone.
        RunningSystem.remove(data)
        plan = plan_for()
        _refuse_busy_ports(plan)
        try:
            return asyncio.run(_supervise(plan, console))
        finally:
            RunningSystem.remove(data)


def _refuse_busy_ports(plan: Plan) -> None:
    taken = {name: port for part in plan.parts for name, port in part.ports.items()}
    ports.refuse_busy(taken)


async def _supervise(plan: Plan, console: Console) -> int:
    started_at = time.monotonic()
    guard = Guard()
    try:
        launcher = Launcher(plan.directory, plan.environment, guard)
        record = Record(plan.data, plan.logs, plan.url, plan.parts)
        with board.Board(console, plan.shown) as shown:

            def tell(event: events.Event) -> None:
                record.follow(event)
                shown.tell(event)

            keep = partial(_keeper, plan, launcher, tell, {})
            members: list[Member] = [keep(part) for part in plan.parts]
            if plan.fleet is not None:
                members.append(Fleet(plan.fleet, keep, tell))
            supervisor = Supervisor(members)
            _stop_on_signals(supervisor, shown)
            welcome = asyncio.create_task(_welcome(supervisor, shown, plan, console, started_at))
            try:
                await supervisor.run()
            finally:
                welcome.cancel()
                await asyncio.gather(welcome, return_exceptions=True)
    finally:
        guard.close()
    return _KILLED_EXIT_CODE if supervisor.killed else 0


def _keeper(
    plan: Plan, launcher: Launcher, tell: events.Watcher, logs: dict[str, PartLog], part: Part
) -> Keeper:
    log = logs.get(part.name)
    if log is None:
        log = logs[part.name] = PartLog(plan.logs / f"{part.name}.log")
        log.rotate()
    return Keeper(part, log, launcher, tell, patience=plan.patience)


def _stop_on_signals(supervisor: Supervisor, shown: board.Board) -> None:
    def stop() -> None:
        shown.announce_stop()
        supervisor.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


async def _welcome(
    supervisor: Supervisor,
    shown: board.Board,
    plan: Plan,
    console: Console,
    started_at: float,
) -> None:
    await supervisor.wait_until_ready()
    shown.settle()
    has_gateway = any(part.name == "functions" for part in plan.parts)
    board.show_usage(
        console,
        seconds=time.monotonic() - started_at,
        url=plan.url if has_gateway else None,
        picture=plan.picture,
        logs=plan.logs,
    )
