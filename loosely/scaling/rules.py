"""The numbers that scaling goes by, named as in KEDA's ScaledObject and in autoscaling/v2.

Sources: keda.sh, "ScaledObject specification" and "Azure Service Bus" (2.19); kubernetes.io,
"Horizontal Pod Autoscaling", sections "Algorithm details" and "Default behavior". The defaults
are theirs.
"""

from dataclasses import dataclass, field
from enum import Enum


class Unit(Enum):
    """What a policy counts in."""

    PODS = "Pods"
    PERCENT = "Percent"


class Select(Enum):
    """Which of several policies holds: the one that allows the most change, the least, or none."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    """At most so much change in any ``period_seconds``."""

    unit: Unit
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Direction:
    """How fast replicas may come, or go."""

    stabilization_window_seconds: float
    policies: tuple[Policy, ...]
    select: Select = Select.MAX


@dataclass(frozen=True, slots=True)
class Behavior:
    """`spec.behavior` of an autoscaler, with the defaults that Kubernetes fills in."""

    scale_up: Direction = Direction(
        0.0, (Policy(Unit.PERCENT, 100, 15.0), Policy(Unit.PODS, 4, 15.0))
    )
    scale_down: Direction = Direction(300.0, (Policy(Unit.PERCENT, 100, 15.0),))


@dataclass(frozen=True, slots=True)
class Scaling:
    """A ScaledObject with one azure-servicebus trigger for each queue.

    Raises:
        ValueError: the numbers contradict one another.
    """

    #: Active messages for each replica: the metric's target (AverageValue).
    message_count: int = 5
    #: The trigger is active when there are more messages than this.
    activation_message_count: int = 0
    polling_interval_seconds: float = 30.0
    cooldown_period_seconds: float = 300.0
    initial_cooldown_period_seconds: float = 0.0
    min_replica_count: int = 0
    max_replica_count: int = 100
    idle_replica_count: int | None = None
    #: --horizontal-pod-autoscaler-sync-period and -tolerance of the controller manager.
    sync_period_seconds: float = 15.0
    tolerance: float = 0.1
    behavior: Behavior = field(default_factory=Behavior)

    def __post_init__(self) -> None:
        if self.message_count < 1:
            raise ValueError("messages for each replica: at least 1")
        if not 0 <= self.min_replica_count <= self.max_replica_count:
            raise ValueError("replicas: the minimum is from 0 to the maximum")
        if self.max_replica_count < 1:
            raise ValueError("replicas: the maximum is at least 1")
        if self.idle_replica_count is not None and not (
            0 <= self.idle_replica_count < self.min_replica_count
        ):
            raise ValueError("idle replicas: fewer than the minimum")
        if min(self.polling_interval_seconds, self.sync_period_seconds) <= 0:
            raise ValueError("the polling interval and the sync period are more than 0 s")
