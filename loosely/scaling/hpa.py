"""The Kubernetes autoscaler's part: between the first replica and the last.

Restates kubernetes/kubernetes pkg/controller/podautoscaler: `GetExternalPerPodMetricReplicas` of
replica_calculator.go, and of horizontal.go `computeReplicasForMetrics`,
`stabilizeRecommendationWithBehaviors`, `convertDesiredReplicasWithBehaviorRate` and
`calculateScale{Up,Down}Limit…`. The replicas asked for are taken for those that exist, as with a
Deployment whose pods have been made, ready or not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loosely.scaling.rules import Direction, Policy, Scaling, Select, Unit


def proposal(replicas: int, metric: int, target: int, tolerance: float) -> int:
    """Return ceil(metric / target), or ``replicas`` where that is near enough already."""
    if abs(1.0 - metric / (target * replicas)) <= tolerance:
        return replicas
    return math.ceil(metric / target)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A recommendation, or a change of the number of replicas, and when."""

    at_seconds: float
    replicas: int


class Autoscaler:
    """One HorizontalPodAutoscaler: decides at each sync, remembers what its windows need."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        # KEDA writes 1 where its own minimum is 0: from and to zero is its affair.
        self._minimum = max(1, scaling.min_replica_count)
        self._recommended: list[_Moment] = []
        self._added: list[_Moment] = []
        self._removed: list[_Moment] = []

    def decide(self, now_seconds: float, replicas: int, counts: Sequence[int | None]) -> int:
        """Return the number of replicas, given each queue's count; ``None`` is an error."""
        if replicas == 0:
            return 0  # switched off, until somebody sets another number
        if replicas > self._scaling.max_replica_count:
            decided = self._scaling.max_replica_count
        elif replicas < self._minimum:
            decided = self._minimum
        else:
            wanted = self._largest(replicas, counts)
            if wanted is None:
                return replicas
            stable = self._stable(now_seconds, replicas, wanted)
            decided = self._limited(now_seconds, replicas, stable)
        self._remember(now_seconds, decided - replicas)
        return decided

    def _largest(self, replicas: int, counts: Sequence[int | None]) -> int | None:
        """The largest proposal of all metrics; none that removes replicas while one is unknown."""
        proposals = [
            proposal(replicas, count, self._scaling.message_count, self._scaling.tolerance)
            for count in counts
            if count is not None
        ]
        if not proposals or (None in counts and max(proposals) < replicas):
            return None
        return max(proposals)

    def _stable(self, now: float, replicas: int, wanted: int) -> int:
        """Up no further than the lowest wish in its window, down no further than the highest."""
        if not self._recommended:
            # The controller knows no other wish for a new autoscaler than what there is.
            self._recommended.append(_Moment(now, replicas))
        behavior = self._scaling.behavior
        up_window = behavior.scale_up.stabilization_window_seconds
        down_window = behavior.scale_down.stabilization_window_seconds
        up = min([wanted, *_within(self._recommended, now, up_window)])
        down = max([wanted, *_within(self._recommended, now, down_window)])
        kept = max(up_window, down_window)
        self._recommended = [m for m in self._recommended if m.at_seconds >= now - kept]
        self._recommended.append(_Moment(now, wanted))
        return min(max(replicas, up), down)

    def _limited(self, now: float, replicas: int, wanted: int) -> int:
        behavior = self._scaling.behavior
        if wanted > replicas:
            limit = max(replicas, self._limit(now, replicas, behavior.scale_up, upwards=True))
            return min(wanted, limit, self._scaling.max_replica_count)
        if wanted < replicas:
            limit = min(replicas, self._limit(now, replicas, behavior.scale_down, upwards=False))
            return max(wanted, limit, self._minimum)
        return wanted

    def _remember(self, now: float, change: int) -> None:
        behavior = self._scaling.behavior
        policies = (*behavior.scale_up.policies, *behavior.scale_down.policies)
        since = now - max((policy.period_seconds for policy in policies), default=0.0)
        self._added = [m for m in self._added if m.at_seconds > since]
        self._removed = [m for m in self._removed if m.at_seconds > since]
        if change > 0:
            self._added.append(_Moment(now, change))
        elif change < 0:
            self._removed.append(_Moment(now, -change))

    def _limit(self, now: float, replicas: int, direction: Direction, *, upwards: bool) -> int:
        """How far the policies let the number go, counted from where each period began."""
        if direction.select is Select.DISABLED:
            return replicas
        limits = []
        for policy in direction.policies:
            added = sum(_within(self._added, now, policy.period_seconds))
            removed = sum(_within(self._removed, now, policy.period_seconds))
            limits.append(_reach(replicas - added + removed, policy, upwards=upwards))
        furthest = max if upwards else min
        nearest = min if upwards else max
        return furthest(limits) if direction.select is Select.MAX else nearest(limits)


def _reach(start: int, policy: Policy, *, upwards: bool) -> int:
    if policy.unit is Unit.PODS:
        return start + policy.value if upwards else start - policy.value
    # Both are rounded in favour of a change, else a small number would never change.
    if upwards:
        return math.ceil(start * (1 + policy.value / 100))
    return int(start * (1 - policy.value / 100))


def _within(moments: Sequence[_Moment], now: float, window_seconds: float) -> list[int]:
    return [m.replicas for m in moments if m.at_seconds > now - window_seconds]
