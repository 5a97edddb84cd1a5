"""What runs the workers: nodes that take minutes to come, and workers that take a while on them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machines:
    """A node pool under the cluster autoscaler, or a service that has no nodes to wait for.

    The three delays are assumptions to be measured in one's own subscription. The autoscaler's
    three are the defaults of AKS (learn.microsoft.com, "Use the cluster autoscaler in AKS"):
    scan-interval, scale-down-unneeded-time and scale-down-delay-after-add.

    Raises:
        ValueError: the numbers contradict one another.
    """

    #: From the request for a node until its GPU can be used: the machine, its driver, the plugin.
    node_start_seconds: float = 180.0
    #: Once on each new node.
    image_pull_seconds: float = 60.0
    model_load_seconds: float = 15.0
    least_nodes: int = 0
    most_nodes: int = 8
    workers_per_node: int = 1
    scan_interval_seconds: float = 10.0
    unneeded_seconds: float = 600.0
    delay_after_add_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_nodes <= self.most_nodes or self.most_nodes < 1:
            raise ValueError("nodes: the minimum is from 0 to the maximum, which is at least 1")
        if self.workers_per_node < 1:
            raise ValueError("workers on a node: at least 1")
        delays = (self.node_start_seconds, self.image_pull_seconds, self.model_load_seconds)
        if min(delays) < 0:
            raise ValueError("delays: not less than 0 s")

    def next_scan(self, now_seconds: float) -> float:
        """Return when the cluster autoscaler looks next, at ``now_seconds`` or after."""
        if self.scan_interval_seconds <= 0:
            return now_seconds
        return math.ceil(now_seconds / self.scan_interval_seconds) * self.scan_interval_seconds


def serverless(machines: Machines, start_seconds: float) -> Machines:
    """Return what a service is that has no nodes, and bills a replica while there is one.

    ``start_seconds`` is until a replica has its GPU; the rest is as on ``machines``.
    """
    return Machines(
        node_start_seconds=start_seconds,
        image_pull_seconds=machines.image_pull_seconds,
        model_load_seconds=machines.model_load_seconds,
        most_nodes=machines.most_nodes,
        scan_interval_seconds=0.0,
        unneeded_seconds=0.0,
        delay_after_add_seconds=0.0,
    )


@dataclass(frozen=True, slots=True)
class Work:
    """How long the device takes for a batch: for one job, for a full one, evenly in between.

    Raises:
        ValueError: the numbers contradict one another.
    """

    job_seconds: float = 0.2
    batch_size: int = 8
    batch_seconds: float = 0.6

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.job_seconds <= 0:
            raise ValueError("a batch has at least one job, and a job takes more than 0 s")
        if self.batch_seconds < self.job_seconds:
            raise ValueError("a full batch takes at least as long as one job")

    def seconds(self, jobs: int) -> float:
        """Return how long a batch of ``jobs`` takes."""
        if self.batch_size == 1:
            return self.job_seconds
        share = (jobs - 1) / (self.batch_size - 1)
        return self.job_seconds + share * (self.batch_seconds - self.job_seconds)
