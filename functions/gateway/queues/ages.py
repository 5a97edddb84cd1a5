"""Log the age of the oldest message in each queue."""

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime

from gateway.brokers.port import Queues
from gateway.clock import Clock
from gateway.errors import Unavailable

_log = logging.getLogger(__name__)


async def log_oldest(
    queues: Queues, names: Iterable[str], clock: Clock
) -> dict[str, datetime | None]:
    """Log the age of the oldest message in each queue, for infra/modules/alerts.bicep.

    Return when it was enqueued, or None for an empty queue, for each queue that could be read.
    """
    wanted = sorted(names)
    answers = await asyncio.gather(*map(queues.oldest, wanted), return_exceptions=True)
    found: dict[str, datetime | None] = {}
    for queue, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, Unavailable):
            _log.warning(
                "queue %s: the age of the oldest message cannot be read: %s", queue, answer
            )
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[queue] = answer
            if answer is not None:
                age_seconds = max(0.0, (clock() - answer).total_seconds())
                _log.info("queue %s: the oldest message is %.0f s old", queue, age_seconds)
    return found
