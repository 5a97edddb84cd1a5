"""The local Service Bus, changed so that it does not behave as a worker expects.

It refuses a disposition that settles several deliveries, and a settlement by lock token. It counts
a released message as delivered, and it does not store the reason of a dead-lettered message.
"""

import sys
from typing import Any
from uuid import UUID

from emulator.servicebus import management
from emulator.servicebus.__main__ import main
from emulator.servicebus.amqp.session import Session
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.message import PropertyChanges
from emulator.servicebus.broker.queue import Queue
from tests.conformance.worker.servicebus_without_ranges import _on_disposition

_dead_letter = Queue.dead_letter


async def _dead_letter_without_reason(
    queue: Queue,
    token: UUID,
    reason: str | None,
    description: str | None,
    changes: PropertyChanges = (),
) -> None:
    await _dead_letter(queue, token, None, None, changes)


async def _refuse(queue: Queue, body: dict[str, Any]) -> dict[str, Any]:
    raise ArgumentError("this process did not receive the message")


if __name__ == "__main__":
    Session._on_disposition = _on_disposition  # type: ignore[method-assign, assignment]
    Queue.release = Queue.abandon  # type: ignore[method-assign]
    Queue.dead_letter = _dead_letter_without_reason  # type: ignore[method-assign, assignment]
    management._OPERATIONS["update-disposition"] = _refuse
    sys.exit(main())
