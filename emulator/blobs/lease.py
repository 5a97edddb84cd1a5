"""The lease of a blob or a container: its states, its actions, and the requests that it refuses.

Source: "Lease Blob" and "Lease Container" in the REST reference. For each state of a lease, the
tables in these articles show the outcome of each lease operation, and of reads and writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from uuid import UUID, uuid4

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header

INFINITE_SECONDS = -1
_SECONDS_MIN, _SECONDS_MAX = 15, 60
_BREAK_SECONDS_MAX = 60
_SECOND_US = 1_000_000


class LeaseState(Enum):
    """The state of a lease, with the values of the header `x-ms-lease-state`."""

    AVAILABLE = "available"
    LEASED = "leased"
    EXPIRED = "expired"
    BREAKING = "breaking"
    BROKEN = "broken"


_LOCKED = frozenset({LeaseState.LEASED, LeaseState.BREAKING})


@dataclass(frozen=True, slots=True)
class LeaseErrors:
    """The errors of requests that use a resource with the wrong lease id."""

    missing: ErrorCode
    mismatch: ErrorCode
    no_lease: ErrorCode


BLOB_LEASE_ERRORS = LeaseErrors(
    ErrorCode.LEASE_ID_MISSING, ErrorCode.LEASE_ID_MISMATCH, ErrorCode.LEASE_NOT_PRESENT
)
CONTAINER_LEASE_ERRORS = LeaseErrors(
    ErrorCode.LEASE_ID_MISSING_ON_CONTAINER,
    ErrorCode.LEASE_ID_MISMATCH_ON_CONTAINER,
    ErrorCode.LEASE_NOT_PRESENT_ON_CONTAINER,
)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease. Times are in microseconds since 1970 (UTC).

    `id` is empty without a lease, and `seconds` is -1 if it does not expire. `ends_us` is when it
    expires or, if a client has broken it, when the break period ends.
    """

    id: str = ""
    seconds: int = 0
    ends_us: int | None = None
    has_break: bool = False

    @classmethod
    def decode(cls, text: str) -> Lease:
        """Return the lease that `encode` wrote as JSON. An empty text means no lease."""
        return cls(**json.loads(text)) if text else NO_LEASE

    def encode(self) -> str:
        """Return the lease as JSON, or an empty text if there is no lease."""
        return json.dumps(asdict(self)) if self.id else ""

    def state(self, now_us: int) -> LeaseState:
        """Return the state of the lease at the time `now_us`."""
        if not self.id:
            return LeaseState.AVAILABLE
        is_over = self.ends_us is not None and now_us >= self.ends_us
        if self.has_break:
            return LeaseState.BROKEN if is_over else LeaseState.BREAKING
        return LeaseState.EXPIRED if is_over else LeaseState.LEASED

    def is_locked(self, now_us: int) -> bool:
        """Return whether a write needs the lease id at the time `now_us`."""
        return self.state(now_us) in _LOCKED

    def duration_kind(self, now_us: int) -> str | None:
        """Return `fixed` or `infinite` if the resource is leased at `now_us`, otherwise None."""
        if self.state(now_us) is not LeaseState.LEASED:
            return None
        return "infinite" if self.ends_us is None else "fixed"

    def remaining_seconds(self, now_us: int) -> int:
        """Return the seconds until the break period ends, rounded up; 0 if the period has ended."""
        if self.ends_us is None or now_us >= self.ends_us:
            return 0
        return -((now_us - self.ends_us) // _SECOND_US)

    def after_write(self, now_us: int) -> Lease:
        """Return the lease after a write, which removes an expired or broken lease."""
        return self if self.is_locked(now_us) else NO_LEASE

    def check_use(
        self, lease_id: str | None, now_us: int, errors: LeaseErrors, *, requires_id: bool
    ) -> None:
        """Raise one of `errors` if a request with `lease_id` may not use the leased resource."""
        if lease_id is None:
            if requires_id and self.is_locked(now_us):
                raise StorageError(errors.missing)
        elif self.is_locked(now_us):
            if lease_id != self.id:
                raise StorageError(errors.mismatch)
        else:
            raise StorageError(ErrorCode.LEASE_LOST if lease_id == self.id else errors.no_lease)


NO_LEASE = Lease()


def read_lease_id(headers: Mapping[str, str], name: str = "x-ms-lease-id") -> str | None:
    """Return a header's lease id in its canonical form, or None. Raises StorageError."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        return str(UUID(value.strip("()")))
    except ValueError:
        raise invalid_header(name, value) from None


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """The action that a request to Lease Blob or Lease Container asks for.

    Ids that the action does not need are empty. `seconds` is -1 if the new lease does not expire.
    Without `break_seconds` the break period ends when the lease would expire, or at once if it does
    not.
    """

    action: str
    lease_id: str = ""
    proposed_id: str = ""
    seconds: int = 0
    break_seconds: int | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> LeaseRequest:
        """Parse headers with names in lower case. Raises StorageError."""
        action = _required(headers, "x-ms-lease-action").lower()
        if action == "acquire":
            seconds = _integer(headers, "x-ms-lease-duration")
            if seconds != INFINITE_SECONDS and not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
                raise invalid_header("x-ms-lease-duration", str(seconds))
            proposed_id = read_lease_id(headers, "x-ms-proposed-lease-id") or str(uuid4())
            return cls(action, proposed_id=proposed_id, seconds=seconds)
        if action == "break":
            if "x-ms-lease-break-period" not in headers:
                return cls(action)
            period = _integer(headers, "x-ms-lease-break-period")
            if not 0 <= period <= _BREAK_SECONDS_MAX:
                raise invalid_header("x-ms-lease-break-period", str(period))
            return cls(action, break_seconds=period)
        if action not in {"renew", "change", "release"}:
            raise invalid_header("x-ms-lease-action", action)
        proposed = ""
        if action == "change":
            _required(headers, "x-ms-proposed-lease-id")
            proposed = read_lease_id(headers, "x-ms-proposed-lease-id") or ""
        _required(headers, "x-ms-lease-id")
        return cls(action, read_lease_id(headers) or "", proposed)

    def apply(self, lease: Lease, now_us: int) -> Lease:
        """Return the lease after the action. Raises StorageError if its state forbids it."""
        state = lease.state(now_us)
        if self.action == "acquire":
            return self._acquire(lease, state, now_us)
        if self.action == "break":
            return self._break(lease, state, now_us)
        if self.action == "change":
            return self._change(lease, state)
        if lease.id != self.lease_id:
            raise StorageError(ErrorCode.LEASE_ID_MISMATCH_WITH_LEASE_OPERATION)
        if self.action == "release":
            return NO_LEASE
        if lease.has_break:
            raise StorageError(ErrorCode.LEASE_BROKEN_ON_RENEW)
        return _start(lease.id, lease.seconds, now_us)

    def _acquire(self, lease: Lease, state: LeaseState, now_us: int) -> Lease:
        if state in _LOCKED and lease.id != self.proposed_id:
            raise StorageError(ErrorCode.LEASE_ALREADY_PRESENT)
        if state is LeaseState.BREAKING:
            raise StorageError(ErrorCode.LEASE_BREAKING_ON_ACQUIRE)
        return _start(self.proposed_id, self.seconds, now_us)

    def _break(self, lease: Lease, state: LeaseState, now_us: int) -> Lease:
        if state is LeaseState.AVAILABLE:
            raise StorageError(ErrorCode.LEASE_NOT_PRESENT_WITH_LEASE_OPERATION)
        if state not in _LOCKED:
            return replace(lease, has_break=True)
        default_us = now_us if lease.ends_us is None else lease.ends_us
        if self.break_seconds is None:
            ends_us = default_us
        else:
            ends_us = now_us + self.break_seconds * _SECOND_US
            if lease.ends_us is not None:
                ends_us = min(ends_us, lease.ends_us)
        return replace(lease, ends_us=ends_us, has_break=True)

    def _change(self, lease: Lease, state: LeaseState) -> Lease:
        if state not in _LOCKED:
            raise StorageError(ErrorCode.LEASE_NOT_PRESENT_WITH_LEASE_OPERATION)
        is_repeated = state is LeaseState.LEASED and lease.id == self.proposed_id
        if lease.id != self.lease_id and not is_repeated:
            raise StorageError(ErrorCode.LEASE_ID_MISMATCH_WITH_LEASE_OPERATION)
        if state is LeaseState.BREAKING:
            raise StorageError(ErrorCode.LEASE_BREAKING_ON_CHANGE)
        return replace(lease, id=self.proposed_id)


def _start(lease_id: str, seconds: int, now_us: int) -> Lease:
    ends_us = None if seconds == INFINITE_SECONDS else now_us + seconds * _SECOND_US
    return Lease(lease_id, seconds, ends_us)


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise StorageError(ErrorCode.MISSING_REQUIRED_HEADER, HeaderName=name)
    return value


def _integer(headers: Mapping[str, str], name: str) -> int:
    value = _required(headers, name)
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10:
        raise invalid_header(name, value)
    return int(value)
