"""Whether anybody still waits for a job: no device time for nobody."""

from worker.errors import LockLost, NotWaitedFor
from worker.jobs.patience import Patience
from worker.messages.job import Job
from worker.messages.servicebus import utc_now
from worker.outcomes.replies import Replies
from worker.remote.backoff import Backoff

# How long a job waits for the gateway to say whether it is still wanted.
_PATIENCE_SECONDS = 30.0


class Wanted:
    """Asks the gateway about jobs that waited long or were delivered before."""

    def __init__(self, replies: Replies, patience: Patience) -> None:
        self._replies = replies
        self._patience = patience

    def ask(self, job: Job) -> bool | None:
        """Ask, unless it was asked lately or the job is young; None: nobody can tell now."""
        url, now = job.request.reply_url, utc_now()
        if url is None or not job.is_stale(now):
            return True
        is_wanted = self._replies.is_wanted(url)
        if is_wanted is not None:
            job.asked_at = now
        return is_wanted

    def ask_patiently(self, job: Job) -> None:
        """Raise NotWaitedFor where the job is not wanted any more; HandedBack on leaving.

        While the gateway is away no result could be delivered either, so waiting for its answer
        costs little, and running jobs that were cancelled meanwhile a lot.
        """
        self._patience.check()
        backoff, wait = Backoff(), self._patience.waits(job, _PATIENCE_SECONDS)
        while (is_wanted := self.ask(job)) is None and wait(backoff.next()):
            pass
        if job.lease.is_lost:
            raise LockLost("the lock was lost before the job ran")
        if is_wanted is False:
            raise NotWaitedFor("nobody waits for this job any more")
