"""What is killed, and when."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.storm.rig import Rig

_WEIGHTS = {"gateway": 5, "app": 3, "worker": 5, "servicebus": 3, "blobs": 1}
_MIN_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.05, 2.0
_OVERLAP_SHARE = 0.25


@dataclass(frozen=True)
class Kill:
    """One kill -9: of a part with all its processes, or of the app process of a host alone."""

    part: str
    is_app: bool
    #: How long after its jobs were given to the callers.
    delay_seconds: float
    #: Whether the next kill may come before this part is back.
    overlaps: bool

    def __str__(self) -> str:
        return f"app of {self.part}" if self.is_app else self.part

    async def carry_out(self, rig: Rig) -> None:
        """Kill, and wait until what was killed is dead."""
        member = rig.members[self.part]
        await (member.kill_app() if self.is_app else member.kill())

    async def recover(self, rig: Rig) -> None:
        """Wait until the part is ready again, unless the next kill may come before that."""
        if not self.overlaps:
            await rig.members[self.part].wait_until_ready()


def plan_kills(count: int, seed: int, gateways: Sequence[str]) -> list[Kill]:
    """Return the kills of a storm; the same for the same seed."""
    chance = random.Random(f"kills {seed}")
    kills = []
    for _ in range(count):
        target = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        host = chance.choice(gateways)
        kills.append(
            Kill(
                part=host if target in {"gateway", "app"} else target,
                is_app=target == "app",
                delay_seconds=chance.uniform(_MIN_DELAY_SECONDS, _MAX_DELAY_SECONDS),
                overlaps=chance.random() < _OVERLAP_SHARE,
            )
        )
    return kills
