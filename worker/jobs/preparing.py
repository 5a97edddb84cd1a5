"""From a job to what the device can run: is it still wanted? then its input is read."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from contract.messages import PayloadUrl
from worker.errors import HandedBack, InferenceFailed
from worker.inference.threads import preparing_threads, processors
from worker.jobs.ending import Endings, Step
from worker.jobs.opening import expired
from worker.jobs.wanted import Wanted
from worker.messages.job import Job
from worker.messages.servicebus import utc_now

_FETCHING_THREADS = 8


class Preparing:
    """Prepares the jobs of one model, on threads of its own."""

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        read: Step,
        hand_on: Callable[[Job], bool],
        endings: Endings,
    ) -> None:
        """`hand_on` takes what is ready to run; False where it will not run any more."""
        self._wanted = wanted
        self._read = read
        self._hand_on = hand_on
        self._endings = endings
        self._preparing = ThreadPoolExecutor(preparing_threads(processors()), f"{name}-prepare")
        self._fetching = ThreadPoolExecutor(_FETCHING_THREADS, f"{name}-fetch")

    def submit(self, job: Job) -> None:
        """Prepare it soon, and hand it on; whatever fails ends it."""
        # Strangers' servers may be slow: they hold up nobody but one another.
        fetches = isinstance(job.request.input, PayloadUrl)
        pool = self._fetching if fetches else self._preparing
        pool.submit(self._endings.attempt, job, self._prepare, InferenceFailed)

    def _prepare(self, job: Job) -> None:
        if job.is_expired(utc_now()):
            raise expired(job, "the deadline passed before the job was prepared")
        with job.span.step("prepare"):
            self._wanted.ask_patiently(job)
            self._read(job)
        if not self._hand_on(job):
            raise HandedBack("this worker is leaving")
