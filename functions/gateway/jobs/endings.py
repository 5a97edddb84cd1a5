"""What operators hear of jobs that came to nothing."""

import logging
from typing import Final

from contract.status import JobStatus
from gateway.jobs.record import Record

_GOOD: Final = {JobStatus.SUCCEEDED, JobStatus.CANCELLED}

_log = logging.getLogger(__name__)


def report(job_id: str, record: Record) -> None:
    """One line for a job that failed or expired. Alerts parse it: infra/modules/alerts.bicep."""
    if record["status"] not in _GOOD:
        code = (record.get("error") or {}).get("code", "unknown")
        job = (job_id, record["model"], record["status"], code)
        _log.warning("job %s of %s ended as %s: %s", *job)
