"""The jobs of a storm, a test that kills processes: inputs, observed states, broken promises."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

_LARGE_BYTES = 80_000
_NEVER_AGAIN = frozenset({"queued", "running"})


class JobKind(Enum):
    """The way in which a job is submitted, and whether the job is cancelled."""

    ASYNC = "respond-async"
    WAIT = "wait for the answer"
    KEYED = "one Idempotency-Key, sent twice"
    CANCEL = "cancelled right after its 202"


@dataclass(frozen=True)
class KnownState:
    """The newest state of a job that the gateway had reported before a request was sent.

    The response to the request must agree with this state. But it may differ from the responses to
    other requests that were sent at the same time.
    """

    is_final: bool
    is_cancelled: bool


@dataclass(frozen=True)
class StormSubmission:
    """One request that submits a job.

    If there is no response, the caller sends another request for the same job. `label` is the
    number in the job's input, for example `12.2` in the second request for job 12. The model
    `counting` returns this number, so a result shows which request created the job.
    """

    label: str
    path: str
    content: bytes
    headers: Mapping[str, str]


@dataclass
class StormJob:
    """A job of a storm, and all observations of the job.

    `label` is the number in the job's input. It identifies the request that the gateway accepted:
    `12.2` is the second request for job 12. Without an Idempotency-Key, a repeated request creates
    another job, so each request has its own number.
    """

    number: int
    kind: JobKind
    model_ms: int
    model: str = "counting"
    #: How the job kills its worker: an exit code, or -N for signal N. None if it kills no worker.
    death: int | None = None
    label: str = ""
    ids: list[str] = field(default_factory=list)
    cancel_answered: bool = False
    #: The last observed status, `unknown` after a 404.
    status: str = ""
    final: dict[str, Any] | None = None
    changes: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    was_unknown: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers of each request about this job, for example with the API key."""
        return {}

    @property
    def may_expire(self) -> bool:
        """Whether the job may expire. False, because a storm ends before the jobs' deadlines."""
        return False

    @property
    def is_accepted(self) -> bool:
        """Whether the gateway has accepted the job."""
        return bool(self.ids)

    @property
    def is_open(self) -> bool:
        """Whether the job is accepted and has not ended."""
        return self.is_accepted and self.final is None

    @property
    def open_period(self) -> tuple[float, float]:
        """The Unix times at which the job was created and ended. The job must have ended."""
        assert self.final is not None
        created_at, finished_at = (
            datetime.fromisoformat(self.final[name]).timestamp()
            for name in ("created_at", "finished_at")
        )
        return created_at, finished_at

    def input(self, ran_path: Path, attempt: int) -> tuple[str, bytes]:
        """Return the label and the input of one attempt, from 1, such as `12.2` for job 12.

        The model appends the label to `ran_path` each time. Every fifth job has a large input.
        """
        label = f"{self.number}.{attempt}"
        death = "" if self.death is None else f" {self.death}"
        text = f"{ran_path} {label} {self.model_ms}{death}"
        return label, text.ljust(0 if self.number % 5 else _LARGE_BYTES).encode()

    def submission(self, ran_path: Path, attempt: int) -> StormSubmission:
        """Return the request that submits the job in one attempt, from 1."""
        label, data = self.input(ran_path, attempt)
        return StormSubmission(
            label, f"/v1/models/{self.model}/jobs", data, {"content-type": "text/plain"}
        )

    def accept(self, job_id: str, label: str) -> None:
        """Record that the gateway accepted the attempt with this label under `job_id`."""
        self.label = label
        if job_id not in self.ids:
            self.ids.append(job_id)

    @property
    def known(self) -> KnownState:
        """The last reported state, which a caller reads before a request and passes to `see`."""
        return KnownState(self.final is not None, self.cancel_answered)

    def see(self, job: dict[str, Any], known: KnownState, moment: str = "") -> None:
        """Record the state of the job that a response contains.

        If this state contradicts `known`, the state before the request, also record this
        contradiction. `moment` is a text that describes the request in the report.
        """
        status = self.status = str(job["status"])
        if known.is_cancelled and status in _NEVER_AGAIN:
            self.requeued.append(f"{status}{moment}")
        is_final = job["finished_at"] is not None
        if self.final is None:
            self.final = job if is_final else None
        elif job != self.final and (is_final or known.is_final):
            self.changes.append(_difference(self.final, job) + moment)

    def is_right_end(self, final: Mapping[str, Any]) -> bool:
        """Return whether the job may end with the state `final`, given its input and kind."""
        if self.death is not None:
            return bool(final["error"] and final["error"]["code"] == "dead-lettered")
        match final["status"]:
            case "succeeded":
                return self.is_right_result(final["result"])
            case "cancelled":
                return self.kind is JobKind.CANCEL
            case "expired":
                return True  # judged by `may_expire`
            case _:
                return False  # the model never fails

    def is_right_result(self, result: Any) -> bool:
        """Return whether `result` is the model's correct result for the job's input."""
        return bool(result == {"number": self.label})

    def see_unknown(self, known: KnownState) -> None:
        """Record a 404, which is a contradiction if the job had ended before the request."""
        self.status, self.was_unknown = "unknown", True
        if known.is_final:
            self.changes.append("final, then unknown")


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return ", ".join(f"{n}: {before.get(n)!r} -> {after.get(n)!r}" for n in sorted(names))


def plan_jobs(count: int, seed: int, cancel_share: float) -> list[StormJob]:
    """Return `count` jobs of random kinds. The same arguments give the same jobs.

    `cancel_share` is the probability that a job is one that its caller cancels.
    """
    chance = random.Random(f"jobs {seed}")
    others = (JobKind.ASYNC, JobKind.WAIT, JobKind.KEYED)
    jobs = []
    for number in range(count):
        is_cancelled = chance.random() < cancel_share
        kind = chance.choices(others, (70, 15, 15))[0]
        model_ms = chance.choice((5, 20, 100))
        jobs.append(StormJob(number, JobKind.CANCEL if is_cancelled else kind, model_ms))
    return jobs


def plan_cancellations(count: int) -> list[StormJob]:
    """Return `count` jobs that the caller cancels as soon as the gateway has accepted them."""
    return [StormJob(number, JobKind.CANCEL, model_ms=5) for number in range(count)]


@dataclass(frozen=True)
class BrokenPromises:
    """The accepted jobs for which the system broke a promise, in one list for each promise.

    `lost` jobs have not ended. `wrong` jobs ended with an unexpected status or result. `doubled`
    jobs got a second id, or changed after their end. `expired` jobs expired although they had
    enough time. `requeued` jobs were queued or running again after their cancellation.
    """

    lost: list[StormJob]
    wrong: list[StormJob]
    doubled: list[StormJob]
    expired: list[StormJob]
    requeued: list[StormJob]

    @classmethod
    def find(cls, jobs: Iterable[StormJob]) -> "BrokenPromises":
        """Return the accepted jobs for which a promise was broken."""
        accepted = [job for job in jobs if job.is_accepted]
        return cls(
            lost=[job for job in accepted if job.final is None],
            wrong=[job for job in accepted if _is_wrong(job)],
            doubled=[job for job in accepted if len(job.ids) > 1 or job.changes],
            expired=[
                job
                for job in accepted
                if job.final and job.final["status"] == "expired" and not job.may_expire
            ],
            requeued=[job for job in accepted if job.requeued],
        )

    def __bool__(self) -> bool:
        return any((self.lost, self.wrong, self.doubled, self.expired, self.requeued))


def _is_wrong(job: StormJob) -> bool:
    """Return whether a job's end does not fit its input and kind. Expired jobs count elsewhere."""
    return job.final is not None and not job.is_right_end(job.final)
