"""What is known of a message's earlier deliveries, and which of them count against its job.

Service Bus also counts deliveries whose worker was killed from outside, or by another job. So
workers write a count of their own into the message when they abandon it.

A death of the worker process counts against a job only if the process ran the code of this job and
of no other job. If it ran several jobs, each of them is a suspect: the job runs alone when it is
delivered again. So the next death, if there is one, has a certain cause.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from enum import IntEnum
from typing import Final

from contract.names import PROPERTY_DELIVERY_HISTORY

KILLS_PER_FAILURE: Final = 3
"""How many deaths by SIGKILL count as one failed delivery, if the job ran alone.

The kernel kills a process by SIGKILL if memory runs out, which the job may have caused. But an
operator may also have killed the process.
"""

_MAX_COUNT: Final = 255


class LockState(IntEnum):
    """How far the job of a locked message has come.

    ARRIVED: the message was not read yet, so its earlier deliveries are not known.
    WAITING: the job waits for its next step, and the model has not run it.
    RUNNING: the process runs the code of this job and of others.
    RUNNING_ALONE: the process runs the code of this job and of no other job.
    RAN: the model has run the job, and the process does not run the job's code any more.
    OVERRUN: the model runs the job, and no other, longer than `max_run_seconds`. The job must fail.
    LEFT: the process has died, and the history already contains its last delivery.
    """

    ARRIVED = 1
    WAITING = 2
    RUNNING = 3
    RUNNING_ALONE = 4
    RAN = 5
    LEFT = 6
    OVERRUN = 7


@dataclass(frozen=True, slots=True)
class DeliveryHistory:
    """What workers know of the earlier deliveries of a message.

    Attributes:
        failed_count: The deliveries that count against the job: it crashed the worker while it ran
            alone, or the worker gave the message back because of a failure.
        killed_count: The deliveries in which the worker was killed by SIGKILL, by an operator or
            for lack of memory, while the job ran alone.
        waiting_count: The deliveries that ended before the model ran the job.
        running_count: The deliveries in which the process died while it ran the job. If there is
            one, the job is a suspect, and runs alone.
        overrun_count: The deliveries in which the job alone exceeded `max_run_seconds`. If there is
            one, the job fails instead of running again.
        batch_overrun_count: The deliveries in which a batch with the job exceeded it. If there is
            one, the job runs in a batch of its own.
    """

    failed_count: int = 0
    killed_count: int = 0
    waiting_count: int = 0
    running_count: int = 0
    overrun_count: int = 0
    batch_overrun_count: int = 0

    @property
    def failures(self) -> int:
        """Return how many failed deliveries count against the job, including deaths by SIGKILL."""
        return self.failed_count + self.killed_count // KILLS_PER_FAILURE

    def add_failure(self) -> "DeliveryHistory":
        """Return this history with one more failed delivery."""
        return replace(self, failed_count=self.failed_count + 1)

    def add_death(self, *, ran_alone: bool, is_crash: bool) -> "DeliveryHistory":
        """Return this history with one more death. `is_crash` says if the process caused it."""
        counts = {"running_count": self.running_count + 1}
        if ran_alone and is_crash:
            counts["failed_count"] = self.failed_count + 1
        elif ran_alone:
            counts["killed_count"] = self.killed_count + 1
        return replace(self, **counts)

    def add_overrun(self, job_count: int) -> "DeliveryHistory":
        """Return this history with one more overrun of `job_count` jobs that ran together."""
        if job_count == 1:
            return replace(self, overrun_count=self.overrun_count + 1)
        return replace(self, batch_overrun_count=self.batch_overrun_count + 1)

    def or_longer(self, other: "DeliveryHistory | None") -> "DeliveryHistory":
        """Return `other` if it counts more deliveries, and otherwise this history."""
        is_longer = other is not None and sum(astuple(other)) > sum(astuple(self))
        return other if other is not None and is_longer else self

    def to_properties(self) -> dict[str, str]:
        """Return the application property that contains this history."""
        return {PROPERTY_DELIVERY_HISTORY: json.dumps(asdict(self))}

    def to_bytes(self) -> bytes:
        """Return one byte for each count; 255 at most."""
        return bytes(min(count, _MAX_COUNT) for count in astuple(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "DeliveryHistory":
        """Return the history that `to_bytes` has encoded."""
        return cls(*data)


NO_HISTORY: Final = DeliveryHistory()
HISTORY_BYTES: Final = len(fields(DeliveryHistory))


def read_history(properties: Mapping[str, str]) -> DeliveryHistory:
    """Return the history in a message's application properties; NO_HISTORY without a valid one."""
    try:
        counts = json.loads(properties.get(PROPERTY_DELIVERY_HISTORY, "{}"))
        found = [counts.get(each.name, 0) for each in fields(DeliveryHistory)]
    except (ValueError, AttributeError, RecursionError):
        return NO_HISTORY
    is_valid = all(type(count) is int and count >= 0 for count in found)
    return DeliveryHistory(*(min(count, _MAX_COUNT) for count in found)) if is_valid else NO_HISTORY


def history_after_death(
    state: LockState, history: DeliveryHistory, *, is_crash: bool
) -> DeliveryHistory | None:
    """Return a message's history after the worker has died; None if it does not change.

    `is_crash` says whether the process itself caused its death; otherwise the death counts less.
    """
    match state:
        case LockState.WAITING:
            return replace(history, waiting_count=history.waiting_count + 1)
        case LockState.RUNNING | LockState.RUNNING_ALONE:
            ran_alone = state is LockState.RUNNING_ALONE
            return history.add_death(ran_alone=ran_alone, is_crash=is_crash)
        case LockState.OVERRUN:
            return history.add_overrun(1)
        case LockState.LEFT:
            return history
    return None
