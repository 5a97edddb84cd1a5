"""One of a model's queues: what receives and settles, and what renews."""

import logging
import threading

from worker.messages.lease import Leases
from worker.messages.receiver import Intake, Receiver
from worker.messages.servicebus import Delivery, QueueLink, utc_now
from worker.remote.reach import Reach
from worker.settings import Endpoint

_log = logging.getLogger(__name__)

# Nobody waits for a job of low priority so much that its queue's socket need be looked at often.
_LOW_SOCKET_SECONDS = 0.1


class Line:
    """A queue with its two connections. `run` is the thread of the first."""

    def __init__(
        self,
        queue: str,
        endpoint: Endpoint,
        leases: Leases,
        lock_seconds: float,
        *,
        is_low: bool = False,
    ) -> None:
        """`lock_seconds` is how long a lock of the queue lasts at most."""
        self.queue = queue
        self._lock_seconds = lock_seconds
        self.is_low = is_low
        link = (
            QueueLink(endpoint, queue, _LOW_SOCKET_SECONDS)
            if is_low
            else QueueLink(endpoint, queue)
        )
        self.receiver = Receiver(link, leases, Reach(f"Service Bus queue {queue}"))
        self._renewing = QueueLink(endpoint, queue)

    def run(self, intake: Intake, stopping: threading.Event) -> None:
        """Receive and settle, until stopped and all that was received is settled."""
        while not self.receiver.is_finished:
            try:
                self.receiver.turn(intake)
            except Exception:  # noqa: BLE001  the process's edge: this thread must outlive a defect
                _log.exception("%s: the receiver failed, and goes on", self.queue)
                self.receiver.close()
                stopping.wait(1.0)
        self.receiver.close()

    def renew(self, delivery: Delivery, timeout_seconds: float) -> float:
        """See Renew."""
        expires_at = self._renewing.renew(delivery, timeout_seconds)
        # By the broker's clock, which may be ahead of ours.
        return min((expires_at - utc_now()).total_seconds(), self._lock_seconds)
