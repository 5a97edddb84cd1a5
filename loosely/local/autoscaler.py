"""Compute the number of replicas by the rules of KEDA and of the Kubernetes autoscaler.

KEDA (`Activation`) adds the first replica, and removes all replicas after the cool-down period. The
HorizontalPodAutoscaler (`Autoscaler`) sets the number of replicas while at least one replica
exists. `Scaler` applies the rules of both. KEDA decides once in each polling interval, and the
autoscaler once in each sync period.

`Activation` has the same rules as kedacore/keda: `RequestScale`, `scaleFromZeroOrIdle` and
`scaleToZeroOrIdle` in pkg/scaling/executor/scale_scaledobjects.go. As in
pkg/scalers/azure_servicebus_scaler.go, a trigger is active if its queue's ActiveMessageCount is
greater than `activationMessageCount`. As in pkg/scalers/cron_scaler.go, a cron trigger is active
during its period, and its metric is then `desiredReplicas` with the target 1.

`Autoscaler` has the same rules as kubernetes/kubernetes pkg/controller/podautoscaler:
`GetExternalPerPodMetricReplicas` in replica_calculator.go, and in horizontal.go
`computeReplicasForMetrics`, `stabilizeRecommendationWithBehaviors`,
`convertDesiredReplicasWithBehaviorRate` and `calculateScale{Up,Down}Limit…`. In `Autoscaler`, the
number of replicas includes those whose pods are not ready.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loosely.local.scaling import PolicyType, ScaledObject, ScalingPolicy, ScalingRules


class Scaler:
    """Applies the rules of KEDA and of the Kubernetes autoscaler to one set of replicas."""

    def __init__(self, scaling: ScaledObject, now_seconds: float, replicas: int = 0) -> None:
        """Create a scaler of existing replicas, whose first decisions are due at once."""
        self._scaling = scaling
        self._activation = Activation(scaling, now_seconds)
        self._autoscaler = Autoscaler(scaling)
        self._poll_at = self._sync_at = now_seconds
        self._replicas = replicas

    @property
    def replicas(self) -> int:
        """The number of replicas after the last decision."""
        return self._replicas

    @property
    def next_at_seconds(self) -> float:
        """The time, in seconds of the caller's clock, at which the next decision is due."""
        return min(self._poll_at, self._sync_at)

    def step(self, now_seconds: float, counts: Sequence[int | None], warm_replicas: int = 0) -> int:
        """Make the decisions that are due, and return the number of replicas.

        An unknown length of a queue is ``None``. The cron triggers demand ``warm_replicas``.
        """
        before = self._replicas
        if now_seconds >= self._poll_at:
            self._poll_at = now_seconds + self._scaling.polling_interval_seconds
            self._replicas = self._activation.decide(now_seconds, before, counts, warm_replicas)
        if now_seconds >= self._sync_at:
            self._sync_at = now_seconds + self._scaling.sync_period_seconds
            if self._replicas == before:
                self._replicas = self._autoscaler.decide(now_seconds, before, counts, warm_replicas)
        return self._replicas


class Activation:
    """KEDA's rule for the first replicas, and for none after the cool-down if the minimum is 0."""

    def __init__(self, scaling: ScaledObject, created_at_seconds: float) -> None:
        """Create the rule. There is no cool-down before a queue has had messages."""
        self._scaling = scaling
        self._kept_until = created_at_seconds

    def decide(
        self,
        now_seconds: float,
        replicas: int,
        counts: Sequence[int | None],
        warm_replicas: int = 0,
    ) -> int:
        """Return the new number of replicas. None is removed if a queue's length is unknown."""
        minimum = self._scaling.min_replica_count
        if warm_replicas > 0 or any(counts):
            if replicas == 0 or None not in counts:
                self._kept_until = now_seconds + self._scaling.cooldown_period_seconds
            return replicas or max(minimum, 1)
        if None in counts:
            return replicas
        if minimum > 0:
            return max(replicas, minimum)
        return replicas if now_seconds <= self._kept_until else 0


def propose_replicas(replicas: int, metric: int, target: int, tolerance: float) -> int:
    """Return how many replicas are needed for at most ``target`` of the metric each."""
    if abs(1.0 - metric / (target * replicas)) <= tolerance:
        return replicas
    return math.ceil(metric / target)


@dataclass(frozen=True, slots=True)
class _Change:
    """The time of a decision, and how many replicas it recommended or, if negative, removed."""

    at_seconds: float
    replicas: int


class Autoscaler:
    """Computes the number of replicas as the Kubernetes HorizontalPodAutoscaler does."""

    def __init__(self, scaling: ScaledObject) -> None:
        self._scaling = scaling
        # KEDA sets this minimum to 1 if the minimum of the ScaledObject is 0, because KEDA itself
        # scales from and to zero.
        self._minimum = max(1, scaling.min_replica_count)
        self._recommendations: list[_Change] = []
        self._changes: list[_Change] = []

    def decide(
        self,
        now_seconds: float,
        replicas: int,
        counts: Sequence[int | None],
        warm_replicas: int = 0,
    ) -> int:
        """Return the new number of replicas: 0 for 0, because only KEDA adds the first replica."""
        if replicas == 0:
            return 0  # with zero replicas, the autoscaler is disabled until KEDA adds a replica
        if replicas > self._scaling.max_replica_count:
            decided = self._scaling.max_replica_count
        elif replicas < self._minimum:
            decided = self._minimum
        else:
            wanted = self._propose(replicas, counts, warm_replicas)
            if wanted is None:
                return replicas
            stable = self._stabilize(now_seconds, replicas, wanted)
            decided = self._limit_rate(now_seconds, replicas, stable)
        self._record_change(now_seconds, decided - replicas)
        return decided

    def _propose(
        self, replicas: int, counts: Sequence[int | None], warm_replicas: int
    ) -> int | None:
        """Return the largest number of replicas that a queue or a cron trigger needs.

        The result is ``None`` if it would be lower while the length of a queue is unknown.
        """
        proposals = [
            propose_replicas(replicas, count, self._scaling.message_count, self._scaling.tolerance)
            for count in counts
            if count is not None
        ]
        if warm_replicas:
            proposals.append(propose_replicas(replicas, warm_replicas, 1, self._scaling.tolerance))
        if not proposals or (None in counts and max(proposals) < replicas):
            return None
        return max(proposals)

    def _stabilize(self, now: float, replicas: int, wanted: int) -> int:
        """Return the number of replicas that the recent recommendations permit.

        The lowest in the window for scaling up limits a rise, the highest in the other a fall.
        """
        if not self._recommendations:
            # For a new autoscaler, the controller uses the current number as the recommendation.
            self._recommendations.append(_Change(now, replicas))
        behavior = self._scaling.behavior
        up_window = behavior.scale_up.stabilization_window_seconds
        down_window = behavior.scale_down.stabilization_window_seconds
        up = min([wanted, *_within(self._recommendations, now, up_window)])
        down = max([wanted, *_within(self._recommendations, now, down_window)])
        kept = max(up_window, down_window)
        self._recommendations = [m for m in self._recommendations if m.at_seconds >= now - kept]
        self._recommendations.append(_Change(now, wanted))
        return min(max(replicas, up), down)

    def _limit_rate(self, now: float, replicas: int, wanted: int) -> int:
        behavior = self._scaling.behavior
        if wanted > replicas:
            limit = self._find_limit(now, replicas, behavior.scale_up, upwards=True)
            return min(wanted, max(replicas, limit), self._scaling.max_replica_count)
        if wanted < replicas:
            limit = self._find_limit(now, replicas, behavior.scale_down, upwards=False)
            return max(wanted, min(replicas, limit), self._minimum)
        return wanted

    def _record_change(self, now: float, change: int) -> None:
        behavior = self._scaling.behavior
        policies = (*behavior.scale_up.policies, *behavior.scale_down.policies)
        since = now - max((policy.period_seconds for policy in policies), default=0.0)
        self._changes = [m for m in self._changes if m.at_seconds > since]
        self._changes.append(_Change(now, change))

    def _find_limit(self, now: float, replicas: int, rules: ScalingRules, *, upwards: bool) -> int:
        """Return the highest (or lowest) number of replicas that the policies permit now."""
        limits = []
        for policy in rules.policies:
            start = replicas - sum(_within(self._changes, now, policy.period_seconds))
            limits.append(_apply_policy(start, policy, upwards=upwards))
        return max(limits) if upwards else min(limits)


def _apply_policy(start: int, policy: ScalingPolicy, *, upwards: bool) -> int:
    if policy.unit is PolicyType.PODS:
        return start + policy.value if upwards else start - policy.value
    # Rounded up for adding and down for removing. Otherwise a small number would never change.
    if upwards:
        return math.ceil(start * (1 + policy.value / 100))
    return int(start * (1 - policy.value / 100))


def _within(changes: Sequence[_Change], now: float, window_seconds: float) -> list[int]:
    return [m.replicas for m in changes if m.at_seconds > now - window_seconds]
