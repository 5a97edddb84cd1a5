"""Wake the orchestrations of batches after something has happened to their lines."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from contract.names import EVENT_LINES, batch_instance
from gateway.durable import Durable
from gateway.errors import FinalInstance, Unavailable, UnknownInstance

PAUSE_SECONDS: Final = 0.5
"""The shortest time between two events for one batch from this process."""

EVENTS_A_SECOND: Final = 20
"""How many events this process raises in a second. With more batches, each gets fewer."""

_log = logging.getLogger(__name__)


class BatchWaker:
    """Raises the event `lines`, which makes the orchestration of a batch run its next step.

    Many lines end in a short time, so the first call for a batch starts a pause, and the event
    follows it. An event that is lost only delays the batch, whose orchestration also has a timer.
    """

    def __init__(self) -> None:
        self._waking: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_at = 0.0

    def wake(self, durable: Durable, batch_id: str, *, at_once: bool = False) -> None:
        """Raise the event for a batch soon, or now with `at_once`, unless this was asked before."""
        if at_once:
            self._start(_raise(durable, batch_id))
        elif batch_id not in self._waking:
            loop = asyncio.get_running_loop()
            at = max(self._next_at, loop.time() + PAUSE_SECONDS)
            self._next_at = max(self._next_at, loop.time()) + 1 / EVENTS_A_SECOND
            self._waking.add(batch_id)
            self._start(self._raise_later(durable, batch_id, at))

    def _start(self, waking: Coroutine[Any, Any, None]) -> None:
        # The event loop has only a weak reference to a task.
        task = asyncio.create_task(waking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _raise_later(self, durable: Durable, batch_id: str, at: float) -> None:
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        # What happens from now on needs another event.
        self._waking.discard(batch_id)
        await _raise(durable, batch_id)


async def _raise(durable: Durable, batch_id: str) -> None:
    try:
        await durable.raise_event(batch_instance(batch_id), EVENT_LINES, None)
    except (Unavailable, UnknownInstance, FinalInstance) as error:
        _log.debug("batch %s was not woken: %r", batch_id, error)
