"""The activities of a job's orchestration. Durable Functions may run an activity more than once."""

import json
from dataclasses import dataclass

from gateway.jobs.lifecycle import EndRecorder, OutcomeStore, Waiters
from gateway.jobs.model import JobStatus, outcome_from_json, outcome_to_json
from gateway.jobs.progress import ProgressStore


@dataclass(frozen=True, slots=True)
class Conclude:
    """The activity `conclude`, with which the orchestration records or reads a job's outcome."""

    outcomes: OutcomeStore
    progress: ProgressStore
    waiters: Waiters
    ends: EndRecorder

    async def run(self, asked_text: str) -> str:
        """Record an outcome unless the job has an outcome; return the job's outcome.

        `asked_text` is a JSON object with `job_id`, `model` and `propose`, which is the outcome to
        record, or null to record nothing.

        Returns `{"outcome": ...}` as JSON text. For a job without an outcome, returns `{"stopping":
        {"started_at": ...}}` if the worker was ordered to stop the job, or `{}` if it continues.
        Raises Unavailable if the storage did not respond, and a repeated call may succeed.
        """
        asked = json.loads(asked_text)
        job_id, proposed = asked["job_id"], asked["propose"]
        if proposed is None:
            found = await self.outcomes.find(job_id)
        else:
            outcome = outcome_from_json(proposed)
            if outcome.status is JobStatus.EXPIRED:
                outcome = await self.progress.outcome_at_deadline(
                    job_id, asked["model"], outcome.at
                )
            found = await self.outcomes.record(job_id, outcome, asked["model"])
            self.ends.record_end(asked["model"], job_id, "")
        if found is not None:
            await self.waiters.announce(job_id, found)
            return json.dumps({"outcome": outcome_to_json(found)})
        progress = await self.progress.read_if_reported(job_id, asked["model"])
        if progress.report is None or not progress.cancelling:
            return "{}"
        return json.dumps({"stopping": {"started_at": progress.report.started_at}})
