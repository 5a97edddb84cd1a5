"""The faults that a soak causes: killed and suspended components, slow connections, a full disk.

A soak (`./dev soak`) is a long test under load. A rig (`Rig`) runs the components of the system
that is tested.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from lab.storm.kills import Kill, plan_kills
from lab.storm.rig import Rig
from lab.storm.small_disk import SmallDisk

_WEIGHTS = {"kill": 10, "stop": 4, "slow": 4, "disk": 1}
_MAX_STOP_SECONDS, _MAX_SLOW_SECONDS, _MAX_DISK_SECONDS = 15.0, 20.0, 8.0
_ROUND_TRIPS_SECONDS = (0.02, 0.1, 0.5)
_BYTES_PER_SECOND = (None, 100_000.0, 1_000_000.0)
_LINKS = ("gateway", "servicebus", "servicebus admin", "blobs")


class SoakFault(Protocol):
    """A fault that a soak, a long test under load, causes on purpose.

    A kill has no duration. All other faults last for some time.
    """

    @property
    def delay_seconds(self) -> float:
        """How many seconds the test waits before it causes this fault.

        Usually, the wait begins when the system has recovered from the previous fault. But if
        `overlaps` of the previous fault is true, the wait begins as soon as that fault begins.
        """

    @property
    def overlaps(self) -> bool:
        """Whether the next fault may happen before the system has recovered from this fault."""

    async def carry_out(self, rig: Rig) -> None:
        """Cause the fault in the system that `rig` runs, and wait until the fault is over."""

    async def recover(self, rig: Rig) -> None:
        """Wait until the affected components are ready again."""


@dataclass(frozen=True)
class Stop:
    """Suspends a component of the system by SIGSTOP, and lets it continue after `seconds`.

    If `is_child` is true, only the child process of the component is suspended.
    """

    part: str
    is_child: bool
    seconds: float
    delay_seconds: float
    overlaps: bool

    def __str__(self) -> str:
        return f"stop of {'child of ' if self.is_child else ''}{self.part}"

    async def carry_out(self, rig: Rig) -> None:
        """Send SIGSTOP to the component's processes. After `seconds`, send SIGCONT to them."""
        suspended = rig.members[self.part].suspend(is_child=self.is_child)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            for process in suspended:
                with suppress(psutil.Error):
                    process.resume()

    async def recover(self, rig: Rig) -> None:
        """Wait until the component is ready again."""
        await rig.members[self.part].wait_until_ready()


@dataclass(frozen=True)
class SlowLink:
    """Makes all connections to one service slow for `seconds`.

    The delay of the connections is `round_trip_seconds`. If `bytes_per_second` is not None, their
    throughput is limited too.
    """

    link: str
    round_trip_seconds: float
    bytes_per_second: float | None
    seconds: float
    delay_seconds: float
    overlaps: bool

    def __str__(self) -> str:
        return f"slow {self.link}"

    async def carry_out(self, rig: Rig) -> None:
        """Make all connections to the service slow, and restore their speed after `seconds`."""
        proxy = rig.links[self.link]
        proxy.set_link(self.round_trip_seconds, self.bytes_per_second)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            proxy.set_link(0.0)

    async def recover(self, rig: Rig) -> None:
        """Do nothing, because `carry_out` has already restored the speed of the connections."""


@dataclass(frozen=True)
class FullDisk:
    """Fills the disk on which all components store their data, for `seconds`."""

    disk: SmallDisk
    seconds: float
    delay_seconds: float
    overlaps: bool

    def __str__(self) -> str:
        return "full disk"

    async def carry_out(self, rig: Rig) -> None:
        """Fill the disk, and make its space free again after `seconds`."""
        for member in rig.members.values():
            member.may_fail_to_start = True
        pids = [process.pid for members in rig.processes().values() for process in members]
        try:
            self.disk.fill(pids)
            await asyncio.sleep(self.seconds)
        finally:
            self.disk.free(pids)
            for member in rig.members.values():
                member.may_fail_to_start = False

    async def recover(self, rig: Rig) -> None:
        """Wait until all components are ready again."""
        for member in rig.members.values():
            await member.wait_until_ready()


def plan_faults(
    seed: int,
    gateways: Sequence[str],
    disk: SmallDisk | None,
    sorts: Sequence[str],
    mean_pause_seconds: float,
) -> Iterator[SoakFault]:
    """Yield random faults without end. The same arguments always yield the same faults.

    Args:
        seed: The seed of the random numbers.
        gateways: The names of the components that run the gateway.
        disk: The disk that can become full. If it is None, there are no faults of the sort `disk`.
        sorts: The sorts of faults to choose from: `kill`, `stop`, `slow` and `disk`. If no sort can
            be chosen, there are no faults.
        mean_pause_seconds: The mean time between two faults.
    """
    chance = random.Random(f"faults {seed}")
    chosen = [sort for sort in _WEIGHTS if sort in sorts and (sort != "disk" or disk is not None)]
    if not chosen:
        return
    while True:
        sort = chance.choices(chosen, [_WEIGHTS[each] for each in chosen])[0]
        delay = chance.uniform(0.2, 1.8) * mean_pause_seconds
        (kill,) = plan_kills(1, chance.randrange(2**32), gateways, is_isolated=False)
        seconds = chance.random()
        match sort:
            case "kill":
                yield Kill(kill.part, kill.is_child, delay, kill.overlaps)
            case "stop":
                stopped = max(0.5, seconds * _MAX_STOP_SECONDS)
                yield Stop(kill.part, kill.is_child, stopped, delay, kill.overlaps)
            case "slow":
                yield SlowLink(
                    chance.choice(_LINKS),
                    chance.choice(_ROUND_TRIPS_SECONDS),
                    chance.choice(_BYTES_PER_SECOND),
                    max(2.0, seconds * _MAX_SLOW_SECONDS),
                    delay,
                    kill.overlaps,
                )
            case _:
                assert disk is not None
                yield FullDisk(disk, max(1.0, seconds * _MAX_DISK_SECONDS), delay, overlaps=False)
