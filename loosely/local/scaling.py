"""The settings of scaling, named as in KEDA's ScaledObject and in Kubernetes' autoscaling/v2.

Sources: keda.sh, "ScaledObject specification", "Azure Service Bus" (2.19) and "Cron";
kubernetes.io, "Horizontal Pod Autoscaling", sections "Algorithm details" and "Default behavior".
The defaults are those of KEDA and Kubernetes. Settings that our deployment leaves at a default of
no effect, such as an activation threshold, are left out.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from zoneinfo import ZoneInfo

_DAY_MINUTES = 24 * 60


class PolicyType(Enum):
    """The unit of a scaling policy's value."""

    PODS = "Pods"
    PERCENT = "Percent"


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """A limit on the pods, or the percentage of pods, that change in ``period_seconds``."""

    unit: PolicyType
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """The rules of an autoscaler for one direction: for adding or for removing replicas."""

    stabilization_window_seconds: float
    policies: tuple[ScalingPolicy, ...]


@dataclass(frozen=True, slots=True)
class Behavior:
    """The field `spec.behavior` of an autoscaler, with the defaults of Kubernetes."""

    scale_up: ScalingRules = ScalingRules(
        0.0, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0), ScalingPolicy(PolicyType.PODS, 4, 15.0))
    )
    scale_down: ScalingRules = ScalingRules(300.0, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0),))


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """A trigger that demands replicas during a period of the week, even if the queue is empty.

    It starts on ``days`` (0 is Monday). Times are minutes after midnight, and may exceed 1440.
    """

    days: tuple[int, ...]
    start_minutes: int
    end_minutes: int
    timezone: str
    desired_replicas: int = 1

    def is_active(self, now: datetime) -> bool:
        """Return whether ``now`` is in the period. ``now`` must have a time zone."""
        return self.contains(now.astimezone(ZoneInfo(self.timezone)))

    def contains(self, local: datetime) -> bool:
        """Return whether the period includes ``local``, a local time in the period's time zone."""
        minutes = local.hour * 60 + local.minute
        yesterday = (local.weekday() - 1) % 7
        return (
            local.weekday() in self.days and self.start_minutes <= minutes < self.end_minutes
        ) or (yesterday in self.days and minutes + _DAY_MINUTES < self.end_minutes)


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """The settings of a KEDA ScaledObject with one azure-servicebus trigger for each queue."""

    #: The metric's target (AverageValue): the number of active messages per replica.
    message_count: int = 5
    polling_interval_seconds: float = 30.0
    cooldown_period_seconds: float = 300.0
    min_replica_count: int = 0
    max_replica_count: int = 100
    #: The controller manager's options --horizontal-pod-autoscaler-sync-period and
    #: --horizontal-pod-autoscaler-tolerance.
    sync_period_seconds: float = 15.0
    tolerance: float = 0.1
    behavior: Behavior = field(default_factory=Behavior)
    #: The triggers of type cron.
    cron: tuple[CronTrigger, ...] = ()

    def __post_init__(self) -> None:
        if self.message_count < 1:
            raise ValueError(
                f"messages per replica: expected at least 1, found {self.message_count}"
            )
        if not 0 <= self.min_replica_count <= self.max_replica_count > 0:
            raise ValueError(
                "replicas: the minimum must be from 0 to the maximum, and the maximum at least 1, "
                f"found {self.min_replica_count}:{self.max_replica_count}"
            )
        if min(self.polling_interval_seconds, self.sync_period_seconds) <= 0:
            raise ValueError(
                f"the polling interval and the sync period must be more than 0 s, found "
                f"{self.polling_interval_seconds:g} s and {self.sync_period_seconds:g} s"
            )

    def count_warm(self, now: datetime) -> int:
        """Return how many replicas the cron triggers demand at ``now``, which has a time zone."""
        return max((t.desired_replicas for t in self.cron if t.is_active(now)), default=0)
