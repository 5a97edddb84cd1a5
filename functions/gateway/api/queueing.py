"""What callers hear of the queue: their place in it, when to ask again, that it is too long."""

import math
from datetime import datetime
from typing import Any, Final

from contract.catalogue import Model
from contract.status import JobStatus
from gateway import problems
from gateway.problems import Problem
from gateway.queueing.places import NOWHERE, retry_after_seconds
from gateway.queueing.priority import Priority
from gateway.services import Services

RETRY_AFTER_SECONDS: Final = 1
"""When to ask again for a job of which nothing is known."""

LONGEST_RETRY_AFTER_SECONDS: Final = 30
LONGEST_REFUSAL_SECONDS: Final = 300


async def placed(services: Services, job: dict[str, Any], priority: Priority) -> dict[str, str]:
    """Write a job's place in the queue into its resource; the headers that tell when to ask again.

    Only a job that has not begun has a place.
    """
    model = services.catalogue.get(job["model"])
    place = NOWHERE
    if model is not None and job["status"] == JobStatus.QUEUED:
        created_at = datetime.fromisoformat(job["created_at"])
        place = await services.backlog.place(model, created_at, priority)
        job["queue"] = place.document()
    seconds = retry_after_seconds(place, RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS)
    return {"Retry-After": str(seconds)}


def refuse_if_saturated(
    services: Services, model: Model, deadline_seconds: float, priority: Priority
) -> None:
    """Refuse a job that by the model's recent speed would expire before its turn has come."""
    if not services.settings.refuse_when_saturated:
        return
    excess = services.backlog.excess_seconds(model, deadline_seconds, priority)
    if excess is None:
        return
    seconds = min(LONGEST_REFUSAL_SECONDS, math.ceil(excess))
    raise Problem(
        problems.SATURATED,
        f"the jobs before it take {deadline_seconds + excess:.0f} s, and the job has "
        f"{deadline_seconds:.0f} s",
        headers={"Retry-After": str(seconds)},
    )
