"""A job while it runs: for models that report, what their workers have told since."""

from contract.fields import Json
from gateway.errors import Unavailable
from gateway.jobs.progress import Progress, ProgressStore, seen
from gateway.jobs.record import Record, is_final
from gateway.services import Services


async def live(services: Services, job_id: str, found: Record) -> Record:
    """The record as of now. Costs one look at a blob, and only where the model reports.

    Raises Unavailable, but not of an ended job, of which it could only tell that it had started.
    """
    if not reports(services, found) or (is_final(found) and found["started_at"] is not None):
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


async def stop_order(services: Services, job_id: str, found: Record) -> Json:
    """What the event `cancel` carries: since when the job runs on a worker that can be told.

    None for any other job, which is cancelled at once. The order is written down before the
    event is raised, so that the worker hears of it, whatever becomes of this process.
    """
    if not reports(services, found):
        return None
    progress = await ProgressStore(services.blobs).update(job_id, _stopping)
    return {"started_at": progress.report.started_at} if progress.report else None


def reports(services: Services, found: Record) -> bool:
    """Whether the job's model reports its progress."""
    model = services.catalogue.get(found["model"])
    return model is not None and model.reports_progress


def _stopping(progress: Progress) -> Progress:
    return progress.cancelled() if progress.report else progress
