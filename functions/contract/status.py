"""The life of a job: one table of legal changes."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from contract.errors import IllegalStatusChange


class JobStatus(StrEnum):
    """What a caller sees of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """True where nothing can change any more."""
        return not LEGAL_CHANGES[self]


_ANY_END = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED}

LEGAL_CHANGES: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLING} | _ANY_END),
        JobStatus.RUNNING: frozenset({JobStatus.CANCELLING} | _ANY_END),
        # A reply may overtake the wish to cancel: the first final outcome wins.
        JobStatus.CANCELLING: frozenset(_ANY_END),
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
        JobStatus.EXPIRED: frozenset(),
    }
)


def change(before: JobStatus, after: JobStatus) -> JobStatus:
    """Return `after`, or raise IllegalStatusChange. Staying as it is is no change and is legal."""
    if after is before or after in LEGAL_CHANGES[before]:
        return after
    raise IllegalStatusChange(before, after)
