"""Test that an orchestrator runs first in a thread, and later on the event loop if it is fast."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from emulator.functions.app.invocation import SLOW_SECONDS, TRIAL_RUNS, LoopRuns
from emulator.functions.app.invocation import run_orchestrator as run_once


async def run_orchestrator(runs: LoopRuns, count: int) -> list[bool]:
    """Run an orchestrator `count` times. Return, for each run, whether it used the event loop.

    A run that did not use the event loop was in a thread.
    """

    def orchestrator(context: str) -> bool:
        return threading.current_thread() is threading.main_thread()

    def submit(call: Callable[..., Any], invocation_id: str, arguments: dict[str, Any]) -> Any:
        return asyncio.to_thread(call, **arguments)

    return [
        await run_once(orchestrator, runs, "id", {"context": "{}"}, submit) for _ in range(count)
    ]


async def test_fast_orchestrator_moves_to_the_event_loop() -> None:
    runs = await run_orchestrator(LoopRuns(), TRIAL_RUNS + 2)
    assert runs == [False] * TRIAL_RUNS + [True] * 2


async def test_slow_orchestrator_stays_in_a_thread() -> None:
    runs = LoopRuns()
    assert (await run_orchestrator(runs, TRIAL_RUNS + 1))[-1] is True
    runs.record(SLOW_SECONDS + 0.1)
    assert await run_orchestrator(runs, TRIAL_RUNS + 1) == [False] * (TRIAL_RUNS + 1)
