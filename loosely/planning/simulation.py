"""A day of jobs under KEDA, the autoscaler and the cluster autoscaler, event by event.

A job comes. KEDA or the autoscaler counts messages (waiting and held, as ActiveMessageCount is
taken to do) and sets the number of workers. A worker without a node waits for the cluster
autoscaler's next scan, which asks for nodes. A node comes and pulls the image, the worker loads the
model and takes batches. Workers that are too many go as pods do: the newest first, those without a
node among them, and each after its batch.
"""

from collections import deque
from dataclasses import dataclass

from loosely.planning.load import Load
from loosely.planning.machines import Machines, Work
from loosely.planning.outcome import Outcome, Sample
from loosely.planning.pool import Node, Pool
from loosely.planning.timeline import Timeline
from loosely.scaling.pair import Scaler
from loosely.scaling.rules import Scaling

_SAMPLES = 288


@dataclass(eq=False, slots=True)
class _Worker:
    node: Node | None = None
    is_ready: bool = False
    is_busy: bool = False
    is_leaving: bool = False


def simulate(
    load: Load, scaling: Scaling, machines: Machines, work: Work, duration_seconds: float
) -> Outcome:
    """Return what becomes of ``load`` within ``duration_seconds``."""
    run = _Run(load, scaling, machines, work, duration_seconds)
    return run.until_end()


class _Run:
    def __init__(
        self, load: Load, scaling: Scaling, machines: Machines, work: Work, duration_seconds: float
    ) -> None:
        self._duration = duration_seconds
        self._work = work
        self._model_load_seconds = machines.model_load_seconds
        self._arrivals = load.arrivals(duration_seconds)
        self._timeline = Timeline()
        self._pool = Pool(machines, self._timeline, self._settle)
        self._scaler = Scaler(scaling, 0.0, replicas=scaling.min_replica_count)
        self._waiting: deque[float] = deque()
        self._held = 0
        self._workers: list[_Worker] = []
        self._outcome = Outcome()

    def until_end(self) -> Outcome:
        self._hire(self._scaler.replicas)
        self._expect()
        self._scale()
        for number in range(_SAMPLES + 1):
            self._timeline.at(self._duration * number / _SAMPLES, self._sample)
        self._timeline.run(self._duration)
        outcome = self._outcome
        outcome.node_seconds = self._pool.node_seconds
        outcome.most_nodes = self._pool.most
        outcome.unanswered = len(self._waiting) + self._held
        return outcome

    def _expect(self) -> None:
        """Plan the next arrival."""
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._timeline.at(arrival, self._arrive)

    def _arrive(self) -> None:
        self._waiting.append(self._timeline.now_seconds)
        self._outcome.jobs += 1
        self._expect()
        self._feed()

    def _scale(self) -> None:
        """One look of KEDA or of the autoscaler."""
        wanted = self._scaler.step(self._timeline.now_seconds, [len(self._waiting) + self._held])
        staying = [worker for worker in self._workers if not worker.is_leaving]
        if wanted > len(staying):
            self._hire(wanted - len(staying))
        elif wanted < len(staying):
            self._dismiss(staying, len(staying) - wanted)
        self._timeline.at(self._scaler.next_at_seconds, self._scale)

    def _hire(self, number: int) -> None:
        self._workers.extend(_Worker() for _ in range(number))
        self._pool.want(self._settle())

    def _dismiss(self, staying: list[_Worker], number: int) -> None:
        # The newest, among whom are those that have no node yet.
        for worker in staying[::-1][:number]:
            worker.is_leaving = True
            if not worker.is_busy:
                self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        if worker.node is not None:
            self._pool.leave(worker.node)
            self._settle()

    def _settle(self) -> int:
        """Put workers on nodes with room; how many are left without."""
        homeless = [worker for worker in self._workers if worker.node is None]
        for place, worker in enumerate(homeless):
            entered = self._pool.enter()
            if entered is None:
                return len(homeless) - place
            worker.node, pull_seconds = entered
            self._load(worker, pull_seconds + self._model_load_seconds)
        return 0

    def _load(self, worker: _Worker, seconds: float) -> None:
        def become_ready() -> None:
            worker.is_ready = not worker.is_leaving
            ready = sum(other.is_ready for other in self._workers)
            self._outcome.most_ready = max(self._outcome.most_ready, ready)
            self._feed()

        self._timeline.after(seconds, become_ready)

    def _feed(self) -> None:
        """Give idle workers their batches."""
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.is_ready and not worker.is_busy and not worker.is_leaving:
                self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        now = self._timeline.now_seconds
        size = min(len(self._waiting), self._work.batch_size)
        arrived = [self._waiting.popleft() for _ in range(size)]
        seconds = self._work.seconds(size)
        worker.is_busy = True
        self._held += size
        self._outcome.waits_seconds.extend(now - at for at in arrived)
        self._outcome.busy_seconds += seconds

        def end() -> None:
            self._held -= size
            worker.is_busy = False
            ended = self._timeline.now_seconds
            self._outcome.answers_seconds.extend(ended - at for at in arrived)
            if worker.is_leaving:
                self._remove(worker)
            elif self._waiting:
                self._begin(worker)

        self._timeline.after(seconds, end)

    def _sample(self) -> None:
        ready = sum(worker.is_ready for worker in self._workers)
        now = self._timeline.now_seconds
        self._outcome.samples.append(
            Sample(now, len(self._waiting), len(self._workers), ready, len(self._pool))
        )
