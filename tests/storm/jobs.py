"""The jobs of a storm: what was submitted, what the gateway said of each, and what is wrong."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

_LARGE_BYTES = 40_000
_NEVER_AGAIN = frozenset({"queued", "running"})


class Kind(Enum):
    """How a job is submitted, and what is done to it."""

    ASYNC = "respond-async"
    WAIT = "wait for the answer"
    KEYED = "one Idempotency-Key, sent twice"
    CANCEL = "cancelled right after its 202"


@dataclass(frozen=True)
class Told:
    """What the gateway had said of a job when a request was sent.

    The answer must not contradict that. It may contradict what other requests, which were under
    way at the same time, have been told since.
    """

    is_final: bool
    is_cancelled: bool


@dataclass
class Job:
    """One job, and all that was seen of it.

    `label` is the number that its input asks for. A submit that is sent again without an
    Idempotency-Key is another job, so each has a label of its own.
    """

    number: int
    kind: Kind
    model_ms: int
    label: str = ""
    ids: list[str] = field(default_factory=list)
    cancel_answered: bool = False
    #: The status that was seen last, of which `unknown` stands for a 404.
    status: str = ""
    final: dict[str, Any] | None = None
    changes: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    was_unknown: bool = False

    @property
    def is_accepted(self) -> bool:
        """Whether the gateway has promised an answer."""
        return bool(self.ids)

    @property
    def is_open(self) -> bool:
        """Whether the promise is still to be kept."""
        return self.is_accepted and self.final is None

    def input(self, ran_path: Path, attempt: int) -> tuple[str, bytes]:
        """Return the label and the input of one try to submit; every fifth is a large one."""
        label = f"{self.number}.{attempt}"
        text = f"{ran_path} {label} {self.model_ms}"
        return label, text.ljust(0 if self.number % 5 else _LARGE_BYTES).encode()

    def accept(self, job_id: str, label: str) -> None:
        """Note a 2xx to a submit."""
        self.label = label
        if job_id not in self.ids:
            self.ids.append(job_id)

    @property
    def told(self) -> Told:
        """What the gateway has said so far; take it before sending a request."""
        return Told(self.final is not None, self.cancel_answered)

    def see(self, job: dict[str, Any], told: Told, where: str = "") -> None:
        """Note what the gateway says, and whether it contradicts what it had said before."""
        status = self.status = str(job["status"])
        if told.is_cancelled and status in _NEVER_AGAIN:
            self.requeued.append(f"{status}{where}")
        is_final = job["finished_at"] is not None
        if self.final is None:
            self.final = job if is_final else None
        elif job != self.final and (is_final or told.is_final):
            self.changes.append(_difference(self.final, job) + where)

    def see_unknown(self, told: Told) -> None:
        """Note that the gateway does not know the job."""
        self.status, self.was_unknown = "unknown", True
        if told.is_final:
            self.changes.append("final, then unknown")


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return ", ".join(f"{n}: {before.get(n)!r} -> {after.get(n)!r}" for n in sorted(names))


def plan_jobs(count: int, seed: int, cancel_share: float) -> list[Job]:
    """Return the jobs of a storm; the same for the same seed."""
    chance = random.Random(f"jobs {seed}")
    others = (Kind.ASYNC, Kind.WAIT, Kind.KEYED)
    jobs = []
    for number in range(count):
        is_cancelled = chance.random() < cancel_share
        kind = chance.choices(others, (70, 15, 15))[0]
        model_ms = chance.choice((5, 20, 100))
        jobs.append(Job(number, Kind.CANCEL if is_cancelled else kind, model_ms))
    return jobs


def plan_cancellations(count: int) -> list[Job]:
    """Return jobs that are all cancelled right after their 202."""
    return [Job(number, Kind.CANCEL, model_ms=5) for number in range(count)]


@dataclass(frozen=True)
class Faults:
    """The jobs that break a promise, by promise."""

    lost: list[Job]
    wrong: list[Job]
    doubled: list[Job]
    expired: list[Job]
    requeued: list[Job]

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> "Faults":
        """Judge the accepted jobs, after the storm."""
        accepted = [job for job in jobs if job.is_accepted]
        return cls(
            lost=[job for job in accepted if job.final is None],
            wrong=[job for job in accepted if _is_wrong(job)],
            doubled=[job for job in accepted if len(job.ids) > 1 or job.changes],
            # No job of a storm is older than its deadline of 30 minutes.
            expired=[job for job in accepted if job.final and job.final["status"] == "expired"],
            requeued=[job for job in accepted if job.requeued],
        )

    def __bool__(self) -> bool:
        return any((self.lost, self.wrong, self.doubled, self.expired, self.requeued))


def _is_wrong(job: Job) -> bool:
    """Return whether a job ended in a way that its input, and its caller, did not ask for."""
    if job.final is None:
        return False
    match job.final["status"]:
        case "succeeded":
            return bool(job.final["result"] != {"number": job.label})
        case "cancelled":
            return job.kind is not Kind.CANCEL
        case "expired":
            return False
        case _:
            return True  # the model never fails
