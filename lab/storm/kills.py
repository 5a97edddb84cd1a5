"""The planned kills of a storm, a test with random kills: which component is killed, and when."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.storm.rig import Rig
from loosely.local.parts import BROKERS

_WEIGHTS = {
    "gateway": 5,
    "app of gateway": 3,
    "worker": 3,
    "child of worker": 3,
    "broker": 3,
    "blobs": 1,
}
_MIN_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.05, 2.0
_OVERLAP_SHARE = 0.25


@dataclass(frozen=True)
class Kill:
    """A planned kill of all processes of a component.

    If `is_child` is true, only the child process of the component is killed: the process of a
    Functions host that runs the app, or the process of a worker that runs the models.
    """

    part: str
    is_child: bool
    #: The pause before this kill, in seconds. It begins when one part of the jobs is submitted.
    delay_seconds: float
    #: Whether the next kill may happen before this component is ready again.
    overlaps: bool

    def __str__(self) -> str:
        return f"child of {self.part}" if self.is_child else self.part

    async def carry_out(self, rig: Rig) -> None:
        """Kill the component or only its child process, and wait until the process has ended."""
        member = rig.members[self.part]
        await (member.kill_child() if self.is_child else member.kill())

    async def recover(self, rig: Rig) -> None:
        """Wait until the component is ready again. If `overlaps` is true, return at once."""
        if not self.overlaps:
            await rig.members[self.part].wait_until_ready()


def plan_kills(
    count: int, seed: int, gateways: Sequence[str], *, is_isolated: bool, broker: str = BROKERS[0]
) -> list[Kill]:
    """Return `count` random kills. The same arguments give the same kills.

    `gateways` are the names of the gateway hosts, and `broker` is that of the broker. Unless the
    apps of the hosts have processes of their own, the hosts are killed instead of these.
    """
    chance = random.Random(f"kills {seed}")
    kills = []
    for _ in range(count):
        target = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        host = chance.choice(gateways)
        owner = target.rpartition(" ")[2]
        parts = {"gateway": host, "broker": broker}
        kills.append(
            Kill(
                part=parts.get(owner, owner),
                is_child=owner != target and (is_isolated or owner != "gateway"),
                delay_seconds=chance.uniform(_MIN_DELAY_SECONDS, _MAX_DELAY_SECONDS),
                overlaps=chance.random() < _OVERLAP_SHARE,
            )
        )
    return kills
