"""The age of each queue's oldest job, once a minute in the log, where alerts find it."""

import logging

from contract.queues import names
from gateway.errors import Unavailable
from gateway.services import Services

_log = logging.getLogger(__name__)


async def watch(services: Services) -> None:
    """One line for each queue that is not empty. Alerts parse it: infra/modules/alerts.bicep."""
    for queue in sorted(names(services.catalogue)):
        try:
            enqueued_at = await services.queues.oldest(queue)
        except Unavailable as error:
            _log.warning("queue %s: cannot be looked at: %s", queue, error)
            continue
        if enqueued_at is not None:
            age = max(0.0, (services.clock() - enqueued_at).total_seconds())
            _log.info("queue %s: oldest %.0f s", queue, age)
