"""Batches through the model, on the device's thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from worker.errors import Cancelled, HandedBack, InferenceFailed, LockLost, NotWaitedFor
from worker.inference.execution import execute
from worker.inference.residence import Residence
from worker.inference.results import Finish
from worker.jobs.ending import Endings
from worker.jobs.opening import expired
from worker.jobs.wanted import Wanted
from worker.messages.job import Job
from worker.messages.servicebus import utc_now
from worker.outcomes.progress import Reporter

_ASKING_THREADS = 16


class Running:
    """Runs the batches of one model, one after the other."""

    def __init__(
        self,
        residence: Residence,
        wanted: Wanted,
        endings: Endings,
        reporter: Reporter | None,
        answer: Callable[[Job, Finish], None],
    ) -> None:
        """`reporter` is there where the model tells how far it is; `answer` takes outputs."""
        self._residence = residence
        self._wanted = wanted
        self._endings = endings
        self._reporter = reporter
        self._answer = answer
        self._asking = ThreadPoolExecutor(_ASKING_THREADS, "ask")

    def run(self, batch: list[Job]) -> None:
        """Run a batch; each of its jobs is answered or ended as soon as its outcome is there."""
        runner = self._residence.runner
        mine = [job for job in batch if self._endings.may_start(job)]
        jobs = self._worth_running(mine)
        if runner is None:
            for job in jobs:
                self._endings.end(job, HandedBack("the model was unloaded"))
            return
        allowance, watching = self._residence.allowance, self._residence.observer.batch
        for job, ran in execute(runner.run, jobs, self._is_worth_running, allowance, watching):
            job.ran(ran.started_at, ran.inference_ms, ran.batch_size)
            if ran.error is not None:
                self._endings.fail(job, ran.error, InferenceFailed)
            else:
                self._endings.has_run(job)
                self._answer(job, partial(runner.finish, ran.result))

    def _worth_running(self, jobs: list[Job]) -> list[Job]:
        """Those that are to run. Several are asked about at once, since the device waits for it."""
        now = utc_now()
        if sum(job.is_stale(now) for job in jobs) <= 1:
            return [job for job in jobs if self._is_worth_running(job)]
        answers = self._asking.map(self._is_worth_running, jobs)
        return [job for job, is_worth in zip(jobs, answers, strict=True) if is_worth]

    def _is_worth_running(self, job: Job) -> bool:
        """Whether it is to run; one that is not has been ended."""
        if job.lease.is_lost:
            self._endings.end(job, LockLost("the lock was lost before the job ran"))
        elif job.is_expired(utc_now()):
            self._endings.end(job, expired(job, "the deadline passed before the job ran"))
        elif self._reporter is not None:
            return self._begin(job, self._reporter)
        elif self._wanted.ask(job) is False:
            # Cancelled while a batch before it kept the device busy.
            self._endings.end(job, NotWaitedFor("nobody waits for this job any more"))
        else:
            return True
        return False

    def _begin(self, job: Job, reporter: Reporter) -> bool:
        """Tell that a long job starts; False where it ends before it has begun."""
        if job.context is None:
            job.context = reporter.begin(job)
        if job.context.is_cancelled:
            self._endings.end(job, Cancelled("the job was cancelled before it ran"))
        return not job.context.is_cancelled
