"""From what a model gave for a job to its reply."""

from worker.errors import InferenceFailed
from worker.inference.results import Finish, Result
from worker.inputs.payloads import Payloads
from worker.jobs.ending import Endings
from worker.messages.job import Job


class Answering:
    """Finishes the jobs of one model on the threads for replies, beside the next batch."""

    def __init__(self, payloads: Payloads, endings: Endings) -> None:
        self._payloads = payloads
        self._endings = endings

    def answer(self, job: Job, finish: Finish) -> None:
        """Let the model do its last step, store the result if it is large, and reply."""
        self._endings.submit(job, lambda job: self._finish(job, finish), InferenceFailed)

    def _finish(self, job: Job, finish: Finish) -> None:
        result = finish()
        self._endings.attempt(job, lambda job: self._pack_and_reply(job, result))

    def _pack_and_reply(self, job: Job, result: Result) -> None:
        if job.context is not None:
            job.context.finish()
        packed = self._payloads.pack(job.request.job_id, result, job.lease.wait)
        self._endings.reply(job, packed)
