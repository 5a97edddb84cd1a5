"""The simulated nodes of a cluster: how they are requested, started, used and removed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lab.capacity.clock import Callback, SimulationClock


@dataclass(frozen=True, slots=True)
class Cluster:
    """The settings of a node pool with a cluster autoscaler, or of a serverless service.

    The default times of node start, image pull and model load are assumptions. Measure these times
    in your own Azure subscription.

    ``scan_interval_seconds``, ``unneeded_seconds`` and ``delay_after_add_seconds`` have the
    defaults of scan-interval, scale-down-unneeded-time and scale-down-delay-after-add in AKS.
    Source: learn.microsoft.com, "Use the cluster autoscaler in AKS".

    Raises:
        ValueError: A number is out of range.
    """

    #: Seconds from the request for a node until its GPU can be used: the start of the machine, of
    #: the driver and of the device plugin.
    node_start_seconds: float = 180.0
    #: Seconds for the image pull, which each new node needs once.
    image_pull_seconds: float = 60.0
    model_load_seconds: float = 15.0
    min_nodes: int = 0
    max_nodes: int = 8
    workers_per_node: int = 1
    scan_interval_seconds: float = 10.0
    unneeded_seconds: float = 600.0
    delay_after_add_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_nodes <= self.max_nodes or self.max_nodes < 1:
            raise ValueError(
                f"nodes: the minimum must be from 0 to the maximum, and the maximum at least 1, "
                f"found {self.min_nodes}:{self.max_nodes}"
            )
        if self.workers_per_node < 1:
            raise ValueError(
                f"workers per node: expected at least 1, found {self.workers_per_node}"
            )
        delays = (self.node_start_seconds, self.image_pull_seconds, self.model_load_seconds)
        if min(delays) < 0:
            raise ValueError(
                "the node start, the image pull and the model load must each take 0 s or more, "
                f"found {min(delays):g} s"
            )

    def next_scan(self, now_seconds: float) -> float:
        """Return the time of the autoscaler's first scan at or after ``now_seconds``."""
        if self.scan_interval_seconds <= 0:
            return now_seconds
        return math.ceil(now_seconds / self.scan_interval_seconds) * self.scan_interval_seconds


def serverless_cluster(cluster: Cluster, start_seconds: float) -> Cluster:
    """Return the settings of a serverless service, which bills the lifetime of each replica.

    Args:
        cluster: The settings that provide the maximum number of nodes, and the times of image pull
            and model load.
        start_seconds: The time from the request for a replica until its GPU can be used.
    """
    return Cluster(
        node_start_seconds=start_seconds,
        image_pull_seconds=cluster.image_pull_seconds,
        model_load_seconds=cluster.model_load_seconds,
        max_nodes=cluster.max_nodes,
        scan_interval_seconds=0.0,
        unneeded_seconds=0.0,
        delay_after_add_seconds=0.0,
    )


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """The GPU times of a batch with one job and of a full batch.

    The times of other batches are computed by linear interpolation.

    Raises:
        ValueError: A number is out of range, or a full batch is faster than one job.
    """

    job_seconds: float = 0.2
    batch_size: int = 8
    batch_seconds: float = 0.6

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.job_seconds <= 0:
            raise ValueError(
                "a batch must have at least 1 job, and a job must take more than 0 s, found "
                f"{self.batch_size} jobs of {self.job_seconds:g} s"
            )
        if self.batch_seconds < self.job_seconds:
            raise ValueError(
                "a full batch must take at least as long as one job, found "
                f"{self.batch_seconds:g} s for a full batch and {self.job_seconds:g} s for one job"
            )

    def seconds(self, jobs: int) -> float:
        """Return the GPU time of a batch of ``jobs`` jobs, in seconds."""
        if self.batch_size == 1:
            return self.job_seconds
        share = (jobs - 1) / (self.batch_size - 1)
        return self.job_seconds + share * (self.batch_seconds - self.job_seconds)


@dataclass(eq=False, slots=True)
class Node:
    """One node of the pool. Its lifetime begins when the node is requested."""

    requested_at_seconds: float
    is_up: bool = False
    has_image: bool = False
    empty_since_seconds: float | None = None
    workers: int = 0


class NodePool:
    """The nodes of a cluster.

    Nodes are requested if there are workers without a node. A node that has had no workers for
    ``Cluster.unneeded_seconds`` is removed.
    """

    def __init__(
        self, cluster: Cluster, clock: SimulationClock, assign_workers: Callable[[], int]
    ) -> None:
        """Create the pool with the cluster's minimum number of nodes.

        ``assign_workers`` is a function that assigns workers to nodes, and returns the number of
        workers without a node. The pool calls this function at each scan of the cluster autoscaler,
        and when a node has started.
        """
        self._cluster = cluster
        self._clock = clock
        self._assign_workers = assign_workers
        self._nodes = [Node(0.0, is_up=True, has_image=True) for _ in range(cluster.min_nodes)]
        self._last_requested_at_seconds = -math.inf
        self._is_scan_scheduled = False
        self._removed_seconds = 0.0
        self.peak = len(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def node_seconds(self) -> float:
        """The sum of the lifetimes of all nodes until now, including removed nodes, in seconds."""
        now = self._clock.now_seconds
        return self._removed_seconds + sum(now - node.requested_at_seconds for node in self._nodes)

    def assign(self) -> tuple[Node, float] | None:
        """Assign a worker to a node.

        Returns:
            The node, and the duration of the image pull in seconds. The duration is 0 if the node
                already has the image. ``None`` if no node can run one more worker.
        """
        for node in self._nodes:
            if node.is_up and node.workers < self._cluster.workers_per_node:
                node.workers += 1
                node.empty_since_seconds = None
                pull_seconds = 0.0 if node.has_image else self._cluster.image_pull_seconds
                node.has_image = True
                return node, pull_seconds
        return None

    def release(self, node: Node) -> None:
        """Remove one worker from ``node``. An empty node is removed later."""
        node.workers -= 1
        if node.workers == 0:
            node.empty_since_seconds = self._clock.now_seconds
            self._schedule_removal(node)

    def request(self, pending: int) -> None:
        """Request nodes at the next scan if too few exist for ``pending`` workers."""
        if self._count_missing(pending) > 0 and not self._is_scan_scheduled:
            self._is_scan_scheduled = True
            self._clock.at(self._cluster.next_scan(self._clock.now_seconds), self._scan)

    def _count_missing(self, pending: int) -> int:
        room = self._cluster.workers_per_node
        coming = sum(not node.is_up for node in self._nodes) * room
        needed = math.ceil(max(0, pending - coming) / room)
        return min(needed, self._cluster.max_nodes - len(self._nodes))

    def _scan(self) -> None:
        self._is_scan_scheduled = False
        now = self._clock.now_seconds
        for _ in range(self._count_missing(self._assign_workers())):
            node = Node(now)
            self._nodes.append(node)
            self._last_requested_at_seconds = now
            self._clock.after(self._cluster.node_start_seconds, self._start(node))
        self.peak = max(self.peak, len(self._nodes))

    def _start(self, node: Node) -> Callback:
        def start() -> None:
            node.is_up, node.empty_since_seconds = True, self._clock.now_seconds
            self._assign_workers()
            self._schedule_removal(node)

        return start

    def _schedule_removal(self, node: Node) -> None:
        since = node.empty_since_seconds
        if since is None:
            return
        due = max(since + self._cluster.unneeded_seconds, self._removal_allowed_at_seconds)

        def remove() -> None:
            if node.empty_since_seconds != since or len(self._nodes) <= self._cluster.min_nodes:
                return
            if self._clock.now_seconds < self._removal_allowed_at_seconds:
                self._schedule_removal(node)  # another node was requested in the meantime
                return
            self._nodes.remove(node)
            self._removed_seconds += self._clock.now_seconds - node.requested_at_seconds

        self._clock.at(self._cluster.next_scan(due), remove)

    @property
    def _removal_allowed_at_seconds(self) -> float:
        return self._last_requested_at_seconds + self._cluster.delay_after_add_seconds
