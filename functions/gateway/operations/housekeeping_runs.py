"""Record whether the housekeeping ends well, so that every instance of the app can say so.

Each run of the housekeeping overwrites one small blob.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from contract.messages import format_time
from gateway.storage.blobs import Blobs

LAST_RUN_BLOB: Final = "housekeeping/last-run"


@dataclass(frozen=True, slots=True)
class HousekeepingRun:
    """The last run, and the error of each step that failed in it, by name.

    `ended_well_at` is when all steps last succeeded, or else the time of the first run.
    """

    ended_well_at: datetime
    failed: Mapping[str, str] = field(default_factory=dict)


async def read_last_run(blobs: Blobs) -> HousekeepingRun | None:
    """Return the last run; None if no run is recorded. Raises Unavailable if the storage fails."""
    found = await blobs.read(LAST_RUN_BLOB)
    return None if found is None else _decode(found.data)


async def record_run(blobs: Blobs, at: datetime, failed: Mapping[str, str]) -> None:
    """Record a run that has ended at this time. Raises Unavailable if the storage fails."""
    found = await blobs.read(LAST_RUN_BLOB)
    last = None if found is None else _decode(found.data)
    ended_well_at = last.ended_well_at if failed and last is not None else at
    data = json.dumps({"ended_well_at": format_time(ended_well_at), "failed": dict(failed)})
    if found is None:
        await blobs.create(LAST_RUN_BLOB, data.encode())
    else:
        await blobs.replace(LAST_RUN_BLOB, data.encode(), found.etag)


def _decode(data: bytes) -> HousekeepingRun | None:
    try:
        value = json.loads(data)
        return HousekeepingRun(datetime.fromisoformat(value["ended_well_at"]), value["failed"])
    except (ValueError, TypeError, KeyError):
        return None
