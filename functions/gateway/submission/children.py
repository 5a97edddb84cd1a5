"""Create child jobs, which a model submits to other models while its own job runs."""

from dataclasses import dataclass

from gateway.durable import Durable
from gateway.jobs.children import child_blob
from gateway.submission.create import JobCreator, SubmittedJob
from gateway.submission.parse import NewJob


@dataclass(frozen=True, slots=True)
class ChildJobs:
    """Creates child jobs, and finds the child jobs that a repeated request has created before."""

    creator: JobCreator

    async def find(self, durable: Durable, job_id: str) -> SubmittedJob | None:
        """Return a child job; None if there is no such job."""
        found = await self.creator.jobs.find(durable, job_id)
        return None if found is None else SubmittedJob(job_id, found, is_replay=True)

    async def create(
        self, durable: Durable, job_id: str, new_job: NewJob, wait_seconds: float
    ) -> SubmittedJob:
        """Create the child job, or send no second message if it exists; then wait for its end."""
        job = await self.creator.prepare(new_job, job_id)
        new_job.drop_data()
        await self.creator.blobs.create(child_blob(str(new_job.parent), job_id), b"")
        record = await self.creator.start_and_wait(durable, job, wait_seconds, is_only_start=False)
        return SubmittedJob(job_id, record, is_replay=False)
