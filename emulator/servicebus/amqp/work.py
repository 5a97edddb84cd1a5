"""What is under way for one peer: deliveries that arrive, and requests that are worked on."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from emulator.servicebus.errors import AmqpError, ConnectionFault

_WORK_BYTES = 8 * 1024 * 1024
_PARTIAL_BYTES = 8 * 1024 * 1024

logger = logging.getLogger(__name__)


class Work:
    """Counts what one connection has under way, and says when that changes or fails."""

    def __init__(
        self, on_change: Callable[[], None], on_fault: Callable[[AmqpError], None]
    ) -> None:
        self._on_change = on_change
        self._on_fault = on_fault
        self._create_task = asyncio.get_running_loop().create_task
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._partial_bytes = 0

    @property
    def is_enough(self) -> bool:
        """Whether no more should be read before some of it is done."""
        return self._bytes > _WORK_BYTES

    def hold(self, count: int) -> None:
        """Account for the bytes of deliveries that are not complete; raises ConnectionFault."""
        self._partial_bytes += count
        if self._partial_bytes > _PARTIAL_BYTES:
            raise ConnectionFault(
                "amqp:resource-limit-exceeded", "too many deliveries are incomplete"
            )

    def begin(self, count: int) -> None:
        """Account for a delivery that is complete; too many of them stop the reading."""
        self._partial_bytes -= count
        self._bytes += count
        self._on_change()

    def end(self, count: int) -> None:
        """Account for a delivery that is done."""
        self._bytes -= count
        self._on_change()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that the peer waits for; its faults are the connection's."""
        task = self._create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, AmqpError):
            self._on_fault(error)
            return
        logger.error("a request of a connection failed", exc_info=error)
        self._on_fault(ConnectionFault("amqp:internal-error", "the server failed"))
