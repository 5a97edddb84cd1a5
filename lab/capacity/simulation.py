"""Simulate a day of jobs with KEDA, the Kubernetes autoscaler and the cluster autoscaler.

KEDA and the autoscaler set the number of workers from the number of messages on the queue. This
number includes the messages that workers have received and not settled. We assume that Azure's
ActiveMessageCount includes them too. It does not include jobs beyond the window, which wait in the
waiting room.

If a worker has no node, the cluster autoscaler requests a node at its next scan. The node starts
and pulls the image. Then the worker loads the model and processes batches.

If there are too many workers, the newest workers are removed first, as Kubernetes removes pods. A
busy worker first finishes its batch.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from contract.catalogue import Priority
from contract.queues import MESSAGES_PER_WORKER
from gateway.shares.window import window
from lab.capacity.clock import SimulationClock
from lab.capacity.load import JobLoad
from lab.capacity.nodes import BatchTimes, Cluster, Node, NodePool
from loosely.local.autoscaler import Scaler
from loosely.local.scaling import ScaledObject

_SAMPLES = 288
_HOUR_SECONDS = 3600.0
_PERCENTS = (50, 95, 99)
# A Monday. The simulated times are local times of the warm periods.
_START = datetime(2024, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class SimulationSample:
    """The state of the simulation at one time.

    ``waiting`` is the number of queued jobs. ``wanted`` is the number of all workers, including
    those that are starting or stopping. ``ready`` is the number of workers that have loaded the
    model. ``nodes`` is the number of nodes.
    """

    at_seconds: float
    waiting: int
    wanted: int
    ready: int
    nodes: int


@dataclass(slots=True)
class SimulationResult:
    """The results of a simulation.

    ``unanswered`` is the number of jobs that have not finished when the simulation ends.
    ``wait_seconds`` contains, for each started job, the time from its arrival to the start of its
    batch. ``answer_seconds`` contains, for each finished job, the time from its arrival to the end
    of its batch.
    """

    jobs: int = 0
    unanswered: int = 0
    wait_seconds: list[float] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0
    node_seconds: float = 0.0
    peak_workers: int = 0
    peak_nodes: int = 0
    samples: list[SimulationSample] = field(default_factory=list)

    @property
    def node_hours(self) -> float:
        """The billed hours of all nodes, from their requests on."""
        return self.node_seconds / _HOUR_SECONDS

    @property
    def busy_hours(self) -> float:
        """The hours for which GPUs were busy, added up over all GPUs."""
        return self.busy_seconds / _HOUR_SECONDS

    @property
    def mean_answer_seconds(self) -> float:
        """The average seconds from a job's arrival to the end of its batch; 0 without jobs."""
        return sum(self.answer_seconds) / len(self.answer_seconds) if self.answer_seconds else 0.0

    def document(self) -> dict[str, Any]:
        """Return the results without the samples, as a JSON object."""
        return {
            "jobs": self.jobs,
            "unanswered": self.unanswered,
            "wait_seconds": percentiles(self.wait_seconds),
            "answer_seconds": percentiles(self.answer_seconds),
            "gpu_hours": round(self.node_hours, 3),
            "busy_hours": round(self.busy_hours, 3),
            "peak_workers": self.peak_workers,
            "peak_nodes": self.peak_nodes,
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum of the values, or an empty dict if there are none.

    The percentiles are computed by the nearest-rank method.
    """
    if not values:
        return {}
    ranked = sorted(values)
    found = {f"p{p}": round(ranked[math.ceil(len(ranked) * p / 100) - 1], 3) for p in _PERCENTS}
    return {**found, "max": round(ranked[-1], 3)}


@dataclass(eq=False, slots=True)
class _Worker:
    node: Node | None = None
    is_ready: bool = False
    is_busy: bool = False
    is_stopping: bool = False


def simulate(
    load: JobLoad,
    scaling: ScaledObject,
    cluster: Cluster,
    times: BatchTimes,
    duration_seconds: float,
) -> SimulationResult:
    """Simulate ``load`` from a Monday at midnight on, in local time of the cron triggers."""
    simulation = _Simulation(load, scaling, cluster, times, duration_seconds)
    return simulation.run()


class _Simulation:
    def __init__(
        self,
        load: JobLoad,
        scaling: ScaledObject,
        cluster: Cluster,
        times: BatchTimes,
        duration_seconds: float,
    ) -> None:
        self._duration = duration_seconds
        self._times = times
        self._scaling = scaling
        self._model_load_seconds = cluster.model_load_seconds
        self._arrivals = load.arrivals(duration_seconds)
        self._clock = SimulationClock()
        self._pool = NodePool(cluster, self._clock, self._assign_workers)
        self._scaler = Scaler(scaling, 0.0, replicas=scaling.min_replica_count)
        self._waiting: deque[float] = deque()
        self._held = 0
        self._workers: list[_Worker] = []
        self._result = SimulationResult()

    def run(self) -> SimulationResult:
        self._add_workers(self._scaler.replicas)
        self._schedule_arrival()
        self._scale()
        for number in range(_SAMPLES + 1):
            self._clock.at(self._duration * number / _SAMPLES, self._sample)
        self._clock.run(self._duration)
        result = self._result
        result.node_seconds = self._pool.node_seconds
        result.peak_nodes = self._pool.peak
        result.unanswered = len(self._waiting) + self._held
        return result

    def _schedule_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._clock.at(arrival, self._arrive)

    def _arrive(self) -> None:
        self._waiting.append(self._clock.now_seconds)
        self._result.jobs += 1
        self._schedule_arrival()
        self._start_batches()

    def _scale(self) -> None:
        """Add or remove workers as the autoscaler decides, and schedule its next decision."""
        now = self._clock.now_seconds
        warm = _count_warm(self._scaling, _START + timedelta(seconds=now))
        wanted = self._scaler.step(
            now, [min(len(self._waiting) + self._held, self._window())], warm
        )
        staying = [worker for worker in self._workers if not worker.is_stopping]
        if wanted > len(staying):
            self._add_workers(wanted - len(staying))
        elif wanted < len(staying):
            self._remove_workers(staying, len(staying) - wanted)
        self._clock.at(self._scaler.next_at_seconds, self._scale)

    def _window(self) -> int:
        """Return how many jobs KEDA can see in the queue. The others wait in the waiting room."""
        ready = sum(worker.is_ready for worker in self._workers)
        batch = self._times.batch_size
        each = self._times.seconds(batch) / batch / max(1, ready)
        # As if the scaling's target was that of the deployment, which the window is made for.
        ratio = max(1.0, self._scaling.message_count / MESSAGES_PER_WORKER)
        return int(ratio * window(batch, Priority.NORMAL, ready, each))

    def _add_workers(self, number: int) -> None:
        self._workers.extend(_Worker() for _ in range(number))
        self._pool.request(self._assign_workers())

    def _remove_workers(self, staying: list[_Worker], number: int) -> None:
        # Remove the newest workers first. They include workers without a node.
        for worker in staying[::-1][:number]:
            worker.is_stopping = True
            if not worker.is_busy:
                self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        if worker.node is not None:
            self._pool.release(worker.node)
            self._assign_workers()

    def _assign_workers(self) -> int:
        """Assign workers to nodes, and return the number of workers that still have no node."""
        pending = [worker for worker in self._workers if worker.node is None]
        for index, worker in enumerate(pending):
            assigned = self._pool.assign()
            if assigned is None:
                return len(pending) - index
            worker.node, pull_seconds = assigned
            self._load(worker, pull_seconds + self._model_load_seconds)
        return 0

    def _load(self, worker: _Worker, seconds: float) -> None:
        def become_ready() -> None:
            worker.is_ready = not worker.is_stopping
            ready = sum(other.is_ready for other in self._workers)
            self._result.peak_workers = max(self._result.peak_workers, ready)
            self._start_batches()

        self._clock.after(seconds, become_ready)

    def _start_batches(self) -> None:
        """Start batches of waiting jobs on idle workers."""
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.is_ready and not worker.is_busy and not worker.is_stopping:
                self._start_batch(worker)

    def _start_batch(self, worker: _Worker) -> None:
        now = self._clock.now_seconds
        size = min(len(self._waiting), self._times.batch_size)
        arrived = [self._waiting.popleft() for _ in range(size)]
        seconds = self._times.seconds(size)
        worker.is_busy = True
        self._held += size
        self._result.wait_seconds.extend(now - at for at in arrived)
        self._result.busy_seconds += seconds

        def end() -> None:
            self._held -= size
            worker.is_busy = False
            ended = self._clock.now_seconds
            self._result.answer_seconds.extend(ended - at for at in arrived)
            if worker.is_stopping:
                self._remove(worker)
            elif self._waiting:
                self._start_batch(worker)

        self._clock.after(seconds, end)

    def _sample(self) -> None:
        ready = sum(worker.is_ready for worker in self._workers)
        now = self._clock.now_seconds
        self._result.samples.append(
            SimulationSample(now, len(self._waiting), len(self._workers), ready, len(self._pool))
        )


def _count_warm(scaling: ScaledObject, local: datetime) -> int:
    """Return how many replicas the cron triggers demand at a local time of their time zones."""
    return max((t.desired_replicas for t in scaling.cron if t.contains(local)), default=0)
