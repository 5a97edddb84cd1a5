"""KEDA and the autoscaler together, each at its own pace."""

from collections.abc import Sequence

from loosely.scaling.hpa import Autoscaler
from loosely.scaling.keda import Activation
from loosely.scaling.rules import Scaling


class Scaler:
    """The number of replicas over time.

    :meth:`step` may be called at any time; each of the two looks when its interval is over. Neither
    wakes the other: after the first replica, the next come at the autoscaler's own next sync.
    """

    def __init__(self, scaling: Scaling, now_seconds: float, replicas: int = 0) -> None:
        """Begin at ``now_seconds`` with ``replicas``."""
        self._scaling = scaling
        self._activation = Activation(scaling, now_seconds)
        self._autoscaler = Autoscaler(scaling)
        self._poll_at = self._sync_at = now_seconds
        self._replicas = replicas

    @property
    def replicas(self) -> int:
        """How many there shall be."""
        return self._replicas

    @property
    def next_at_seconds(self) -> float:
        """When there is something to decide again."""
        return min(self._poll_at, self._sync_at)

    def step(self, now_seconds: float, counts: Sequence[int | None]) -> int:
        """Return how many replicas there shall be, given each queue's count of active messages.

        A count of ``None`` could not be had.
        """
        before = self._replicas
        if now_seconds >= self._poll_at:
            self._poll_at = now_seconds + self._scaling.polling_interval_seconds
            self._replicas = self._activation.decide(now_seconds, before, counts)
        if now_seconds >= self._sync_at:
            self._sync_at = now_seconds + self._scaling.sync_period_seconds
            if self._replicas == before:
                self._replicas = self._autoscaler.decide(now_seconds, before, counts)
        return self._replicas
