"""What the azure-storage engine is started with."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_VISIBILITY_TIMEOUT_SECONDS = 60.0
_LONGEST_LEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FaultOptions:
    """Which faults are injected; the rates are probabilities per episode."""

    crash_at: tuple[str, ...] = ()
    """Crash points as POINT or POINT:NAME, checked by `faults.check_crash_point`."""
    crash_rate: float = 0.0
    split_brain_rate: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class AzureStorageOptions:
    """The task hub's file, which several hosts may share, and its timeouts."""

    task_hub: Path
    visibility_timeout_seconds: float = DEFAULT_VISIBILITY_TIMEOUT_SECONDS
    """How long a dequeued message stays invisible if its host no longer renews it."""
    faults: FaultOptions = FaultOptions()

    @property
    def lease_seconds(self) -> float:
        """Return how long a host owns a partition without renewing its lease.

        As with the provider's defaults, a dead host's partitions move before its messages
        become visible again: what arrives in between meets an instance without its messages.
        """
        return min(_LONGEST_LEASE_SECONDS, self.visibility_timeout_seconds / 2)
