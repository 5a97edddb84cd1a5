"""A job while it runs: for models that report, what their workers have told since."""

from gateway.errors import Unavailable
from gateway.jobs.progress import Progress, ProgressStore, seen
from gateway.jobs.record import Record, is_final
from gateway.services import Services


async def live(services: Services, job_id: str, found: Record) -> Record:
    """The record as of now. Costs one look at a blob, and only where the model reports.

    Raises Unavailable, but not of an ended job, of which it could only tell that it had started.
    """
    if not reports(services, found["model"]) or (
        is_final(found) and found["started_at"] is not None
    ):
        return found
    try:
        return seen(found, await ProgressStore(services.blobs).read(job_id))
    except Unavailable:
        if not is_final(found):
            raise
        return found


async def live_at_best(services: Services, job_id: str, found: Record) -> Record:
    """The same, else the record as it is: for answers that tell what has been done to the job."""
    try:
        return await live(services, job_id, found)
    except Unavailable:
        return found


async def order_stop(services: Services, job_id: str, found: Record) -> str | None:
    """Tell the worker that runs a job to stop; return since when the job runs there.

    Returns None if no worker could be told: the model does not report, or the job has not started.
    The order is written before the orchestration hears of it, so that the worker finds it at its
    next report whatever becomes of this process. Raises Unavailable.
    """
    if not reports(services, found["model"]):
        return None
    progress = await ProgressStore(services.blobs).update(job_id, _stopping)
    return progress.report.started_at if progress.report else None


async def stopping_since(services: Services, job_id: str, model: str) -> str | None:
    """Return when a job started whose worker was told to stop; None for any other job.

    Raises Unavailable.
    """
    if not reports(services, model):
        return None
    progress = await ProgressStore(services.blobs).read(job_id)
    return progress.report.started_at if progress.cancelling and progress.report else None


def reports(services: Services, model: str) -> bool:
    """Return whether a model reports its progress."""
    found = services.catalogue.get(model)
    return found is not None and found.reports_progress


def _stopping(progress: Progress) -> Progress:
    return progress.cancelled() if progress.report else progress
