"""Delay the start of a job's orchestration until the outcome is known: an optimisation.

The request that submits a job and waits for it starts the orchestration with the outcome, if the
reply arrives soon. The orchestration's input is then the record of the outcome, and its first
episode is its last. The reply reaches this process or another instance of the app:

    here:      pass the outcome to the request ──▶ start with it ──▶ accept the reply
    elsewhere: record the outcome in the blob ──▶ log of ends ──▶ start with it

Here, the outcome needs no blob. If the process dies before the start, nothing was accepted, and the
worker sends its reply again. If the start fails or takes too long, the outcome is recorded in the
blob. Elsewhere, the reply URL says how long the start is delayed: until then no event is raised,
because there is no orchestration. After its start without an outcome, the request reads the blob
once, and raises the event itself (`Jobs.catch_up`).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from gateway.jobs.lifecycle import OutcomeStore, when_caller_gone
from gateway.jobs.model import JobOutcome, outcome_to_json

START_DELAY_SECONDS: Final = 2.0
"""How long, at most, a request waits for its job's outcome before it starts the orchestration."""

START_MARGIN: Final = timedelta(seconds=0.1)
"""By how much the time in the reply URL is earlier than the start, because clocks differ."""

UNWATCHED_SECONDS: Final = 0.5
"""After what time the wait notices that the caller has gone, which costs a request one task."""

LONGEST_START_SECONDS: Final = 2.0
"""How long a reply waits for the start with its outcome, before the outcome is also in the blob."""

PAST_STARTS: Final = 1000
"""How many starts with an outcome a process remembers, so that it refuses a second reply."""


class _DelayedStart:
    def __init__(self, model: str) -> None:
        loop = asyncio.get_running_loop()
        self.model = model
        self.outcome: JobOutcome | None = None
        self.is_counted = False
        """Whether the end of the job is counted in the metrics."""
        self.has_outcome: asyncio.Future[None] = loop.create_future()
        self.has_started: asyncio.Future[bool] = loop.create_future()
        """Whether the orchestration was started with the outcome."""


class DelayedStarts:
    """The starts of orchestrations that requests of this process delay."""

    def __init__(self, outcomes: OutcomeStore) -> None:
        self._outcomes = outcomes
        self._starts: dict[str, _DelayedStart] = {}
        self._past: dict[str, JobOutcome] = {}
        """The outcomes of the last PAST_STARTS starts, without the replies, which may be large."""

    @contextmanager
    def delaying(self, job_id: str, model: str, *, may_delay: bool) -> Iterator[None]:
        """Let `take` pass the job's outcome to the request that runs the `with` block.

        Enter it before the message is sent. If `may_delay` is false, nothing is delayed.
        """
        if not may_delay:
            yield
            return
        start = self._starts[job_id] = _DelayedStart(model)
        try:
            yield
        finally:
            self._starts.pop(job_id, None)
            if not start.has_started.done():
                start.has_started.set_result(False)

    async def wait_for_outcome(
        self, job_id: str, ended: asyncio.Future[JobOutcome], limit_seconds: float
    ) -> JobOutcome | None:
        """Wait for the outcome of a job whose start is delayed; None if it does not come.

        The wait ends after the time limit, or when the caller has disconnected.

        `ended` gets an outcome that another instance has recorded. Otherwise the outcome is not
        recorded anywhere yet, so the caller must start the orchestration with it, and then call
        `record_start`.
        """
        start = self._starts.get(job_id)
        if start is None:
            return None
        either: list[asyncio.Future[Any]] = [start.has_outcome, ended]
        first_seconds = min(limit_seconds, UNWATCHED_SECONDS)
        done, _ = await asyncio.wait(
            either, timeout=first_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if not done and limit_seconds > first_seconds:
            await asyncio.wait(
                [*either, when_caller_gone()],
                timeout=limit_seconds - first_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if start.outcome is None and ended.done():
            start.outcome, start.is_counted = ended.result(), True
        if start.outcome is None:
            del self._starts[job_id]
        return start.outcome

    def record_start(self, job_id: str) -> None:
        """Record that the orchestration was started with the outcome, if its start was delayed."""
        start = self._starts.pop(job_id, None)
        if start is None or start.outcome is None:
            return
        self._count_end(start, start.outcome)
        start.has_started.set_result(True)
        self._past[job_id] = replace(start.outcome, reply=None)
        if len(self._past) > PAST_STARTS:
            del self._past[next(iter(self._past))]

    def is_wanted(self, job_id: str) -> bool | None:
        """Return whether the job needs a reply; None if the job's start is not delayed."""
        if job_id in self._past:
            return False
        start = self._starts.get(job_id)
        return None if start is None else start.outcome is None

    async def take(self, job_id: str, outcome: JobOutcome) -> JobOutcome | None:
        """Pass the outcome to the request that delays the start; return the recorded outcome.

        Returns None if no request delays the start. Only the first outcome counts. Raises
        Unavailable if the start failed and the outcome could not be recorded in the blob.
        """
        if (past := self._past.get(job_id)) is not None:
            return past
        start = self._starts.get(job_id)
        if start is None:
            return None
        if start.outcome is None:
            start.outcome = outcome
            start.has_outcome.set_result(None)
        first = start.outcome
        # Unlike `wait_for`, `wait` does not cancel the future, for which others also wait.
        await asyncio.wait([start.has_started], timeout=LONGEST_START_SECONDS)
        if start.has_started.done() and start.has_started.result():
            return first
        recorded = await self._outcomes.record(job_id, first, model=None)
        # An outcome that was read from its blob is another object, and has shorter times.
        if recorded is not first and outcome_to_json(recorded) != outcome_to_json(first):
            return recorded
        self._count_end(start, first)
        return first

    def _count_end(self, start: _DelayedStart, outcome: JobOutcome) -> None:
        if not start.is_counted:
            start.is_counted = True
            self._outcomes.count_end(start.model, outcome)
