"""Take dead letters from a broker whose messages the Functions host does not pass to the app."""

import asyncio
import logging
from collections.abc import Collection

from contract.brokers import DeadMessage
from gateway.brokers.port import Queues
from gateway.dead_letters.trigger import DeadLetterTrigger
from gateway.durable import Durable

_log = logging.getLogger(__name__)


class DeadLetterReader:
    """Takes dead letters in a task, from the first request or timer of this process on.

    All instances of the app do this. The broker gives each dead letter to one of them.
    """

    def __init__(self, queues: Queues, trigger: DeadLetterTrigger, names: Collection[str]) -> None:
        self._queues = queues
        self._trigger = trigger
        self._names = names
        self._task: asyncio.Task[None] | None = None
        self._durable: Durable | None = None

    def start(self, durable: Durable) -> None:
        """Start the task unless it runs. Later calls replace the client of the orchestrations."""
        self._durable = durable
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._queues.watch_dead_letters(self._names, self._handle)
        except Exception:  # noqa: BLE001 - the next request starts the task again
            _log.exception("dead letters cannot be taken from the broker; the next request retries")

    async def _handle(self, queue: str, letter: DeadMessage) -> None:
        if self._durable is not None:
            await self._trigger.run(letter, queue, self._durable)
