"""When to try again: pure functions, since an orchestration is replayed."""

import hashlib
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(hours=24)
"""How long a delivery is tried."""

FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 3600.0


def pause_seconds(instance_id: str, failures: int) -> float:
    """How long to wait after so many failures: doubling up to an hour, a quarter more or less.

    The jitter comes from the instance's id, so that a replay computes the same.
    """
    full_seconds = min(FIRST_SECONDS * 2.0 ** min(failures - 1, 32), LONGEST_SECONDS)
    digest = hashlib.sha256(f"{instance_id}:{failures}".encode()).digest()
    return full_seconds * (0.75 + int.from_bytes(digest[:4]) / 2**33)


def next_try(
    instance_id: str,
    failures: int,
    now: datetime,
    ends_at: datetime,
    retry_after_seconds: float | None,
) -> datetime | None:
    """The time of the next try, not before the receiver asked for; None past the end."""
    pause = max(pause_seconds(instance_id, failures), retry_after_seconds or 0.0)
    left_seconds = (ends_at - now).total_seconds()
    return now + timedelta(seconds=pause) if pause <= left_seconds else None
