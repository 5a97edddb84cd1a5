"""Create child jobs, which a model submits to other models while its own job runs."""

from dataclasses import dataclass

from gateway.durable import Durable
from gateway.jobs.children import child_blob
from gateway.jobs.lifecycle import Jobs, Waiters
from gateway.jobs.model import is_final
from gateway.storage.blobs import Blobs
from gateway.submission.create import JobCreator, SubmittedJob
from gateway.submission.parse import NewJob


@dataclass(frozen=True, slots=True)
class ChildJobs:
    """Creates child jobs, and finds the child jobs that a repeated request has created before."""

    creator: JobCreator
    jobs: Jobs
    waiters: Waiters
    blobs: Blobs

    async def find(self, durable: Durable, job_id: str, wait_seconds: float) -> SubmittedJob | None:
        """Return a child job, after waiting for its end; None if there is no such job."""
        found = await self.jobs.find(durable, job_id)
        if found is not None and not is_final(found):
            with self.waiters.waiting(job_id) as ended:
                final = await self.jobs.wait(durable, job_id, found, ended, wait_seconds)
            found = final or found
        return None if found is None else SubmittedJob(job_id, found, is_replay=True)

    async def create(
        self, durable: Durable, job_id: str, new_job: NewJob, wait_seconds: float
    ) -> SubmittedJob:
        """Create the child job `job_id`, and wait up to `wait_seconds` for its end.

        If two requests create the same job, its message is sent once, and its first outcome counts.
        """
        job = await self.creator.prepare(new_job, job_id)
        new_job.drop_data()
        await self.blobs.create(child_blob(str(new_job.parent), job_id), b"")
        record = await self.creator.start_and_wait(durable, job, wait_seconds, is_only_start=False)
        return SubmittedJob(job_id, record, is_replay=False)
