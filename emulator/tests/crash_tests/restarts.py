"""Kill a service at random moments under load, and start it again on the same data."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

_RECOVERY_SECONDS = 90.0


class RestartableService(Protocol):
    """A service that keeps its data and its ports when it is killed and started again."""

    async def start(self) -> None:
        """Start the service, and wait until it is ready."""

    async def kill(self) -> None:
        """Kill the service with SIGKILL, and wait until it has ended."""


async def kill_under_load(
    service: RestartableService,
    pauses: Sequence[float],
    progress: Callable[[], Sequence[int]],
) -> list[str]:
    """Kill the service and start it again after each pause in seconds, when clients work again.

    `progress` returns counts of their operations. Return a sentence for each start after which one
    of the counts did not grow within 90 s.
    """
    violations: list[str] = []
    await _wait_for_progress(progress, violations)
    for pause in pauses:
        await asyncio.sleep(pause)
        await service.kill()
        await service.start()
        await _wait_for_progress(progress, violations)
    return violations


async def _wait_for_progress(progress: Callable[[], Sequence[int]], violations: list[str]) -> None:
    before = progress()
    end = time.monotonic() + _RECOVERY_SECONDS
    while any(now <= was for now, was in zip(progress(), before, strict=True)):
        if time.monotonic() > end:
            violations.append(
                f"the clients did not recover within {_RECOVERY_SECONDS:g} s after a start: the "
                f"counts were {list(before)} and are {list(progress())}"
            )
            return
        await asyncio.sleep(0.02)
