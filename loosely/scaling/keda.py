"""KEDA's part: from no replicas to the first, and back after the cool-down.

Restates `RequestScale`, `scaleFromZeroOrIdle` and `scaleToZeroOrIdle` of
kedacore/keda pkg/scaling/executor/scale_scaledobjects.go, and the activity of
pkg/scalers/azure_servicebus_scaler.go: a trigger is active when its queue's ActiveMessageCount is
greater than `activationMessageCount`. What happens between the first replica and the last is the
autoscaler's (:mod:`loosely.scaling.hpa`).
"""

from collections.abc import Sequence

from loosely.scaling.rules import Scaling


class Activation:
    """Decides at each polling interval; remembers when a trigger was last active."""

    def __init__(self, scaling: Scaling, created_at_seconds: float) -> None:
        """``created_at_seconds`` is when the ScaledObject came to be."""
        self._scaling = scaling
        self._created_at = created_at_seconds
        self._last_active_at: float | None = None

    def decide(self, now_seconds: float, replicas: int, counts: Sequence[int | None]) -> int:
        """Return the number of replicas, given each queue's count; ``None`` is an error."""
        is_active = any(
            count is not None and count > self._scaling.activation_message_count for count in counts
        )
        is_error = None in counts
        if is_active:
            return self._active(now_seconds, replicas, is_error=is_error)
        return replicas if is_error else self._inactive(now_seconds, replicas)

    def _active(self, now: float, replicas: int, *, is_error: bool) -> int:
        minimum = self._scaling.min_replica_count
        is_idle = self._scaling.idle_replica_count is not None and replicas < minimum
        if replicas == 0 or is_idle:
            self._last_active_at = now
            return max(minimum, 1)
        if not is_error:
            self._last_active_at = now
        return replicas

    def _inactive(self, now: float, replicas: int) -> int:
        minimum, idle = self._scaling.min_replica_count, self._scaling.idle_replica_count
        lowest = minimum if idle is None else idle
        if (idle is not None and replicas > idle) or (replicas > 0 and minimum == 0):
            return lowest if self._is_cool(now) else replicas
        return minimum if idle is None and replicas < minimum else replicas

    def _is_cool(self, now: float) -> bool:
        if self._last_active_at is None:
            return now > self._created_at + self._scaling.initial_cooldown_period_seconds
        return now > self._last_active_at + self._scaling.cooldown_period_seconds
