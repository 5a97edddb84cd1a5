"""Runs activities: many at once, but not too many; each at least once."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from emulator.functions.durable.history import EventType, failed, succeeded
from emulator.functions.durable.model import Message
from emulator.functions.durable.outage import Outage
from emulator.functions.durable.records import Work
from emulator.functions.runner import AppUnavailable, FunctionFailure, FunctionRunner

_log = logging.getLogger(__name__)


class Deliver(Protocol):
    """Takes the result of an activity to its instance."""

    def __call__(self, instance_id: str, message: Message) -> None:
        """Deliver a message."""


class ActivityPool:
    """The activities that run and those that wait for their turn."""

    def __init__(
        self,
        runner: FunctionRunner,
        outage: Outage,
        now: Callable[[], int],
        deliver: Deliver,
        concurrency: int,
    ) -> None:
        self._runner = runner
        self._outage = outage
        self._now = now
        self._deliver = deliver
        self._free = concurrency
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether any activity runs or waits."""
        return bool(self._tasks)

    def add(self, work: Work) -> None:
        """Run an activity, which the database has, as soon as there is room."""
        self._waiting.append(work)
        if self._free:
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop; what has not ended runs again with the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                work = self._waiting.popleft()
                self._deliver(work.instance_id, await self._run(work))
        finally:
            self._free += 1

    async def _run(self, work: Work) -> Message:
        while True:
            try:
                message = await self._try(work)
            except AppUnavailable:
                _log.debug("activity %s waits for the app", work.name)
            except Exception:  # noqa: BLE001 - the edge of one activity: the others must go on
                _log.exception("activity %s could not be run and is repeated", work.name)
            else:
                self._outage.over()
                return message
            await self._outage.wait()

    async def _try(self, work: Work) -> Message:
        message = await run_activity(self._runner, self._now, work)
        message.work = work.sequence
        return message


async def run_activity(runner: FunctionRunner, now: Callable[[], int], work: Work) -> Message:
    """Run an activity; return its result or failure as a message to its instance.

    Raises AppUnavailable.
    """
    try:
        result = await runner.act(work.name, work.input, work.instance_id)
    except FunctionFailure as failure:
        cause = f"{failure.type_name}: {failure.message}"
        kind = EventType.TASK_FAILED
        # Two spaces: the worker puts its own label in between, and has none.
        reason = f"Activity function '{work.name}' failed:  {cause}"
        text = failed(kind, now(), work.task, reason, cause)
    else:
        kind = EventType.TASK_COMPLETED
        text = succeeded(kind, now(), work.task, result)
    return Message(kind, text, work.task, work.execution)
