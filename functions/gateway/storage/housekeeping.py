"""Housekeeping: what is left of ended jobs is deleted once nobody may ask for it any more."""

import logging
from datetime import timedelta

from gateway.durable import Durable
from gateway.idempotency import following as claims
from gateway.services import Services
from gateway.storage import uploads

_log = logging.getLogger(__name__)


async def purge(durable: Durable, services: Services) -> int:
    """Delete what ended before the retention began; returns how many.

    The store selects by the time of creation, and a job may live as long as the longest deadline.
    """
    longest = max(model.max_deadline_seconds for model in services.catalogue.values())
    retention = timedelta(hours=services.settings.retention_hours, seconds=longest)
    created_before = services.clock() - retention
    await claims.delete_expired(services)
    await uploads.delete_expired(services)
    deleted = await durable.purge(created_before)
    if deleted:
        _log.info("deleted the histories of %d jobs created before %s", deleted, created_before)
    return deleted
