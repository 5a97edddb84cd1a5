"""Send the lines of a batch to the low-priority queue of its model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from contract.errors import MessageTooLarge, UnknownModel
from contract.messages import FailureCode, JobError, PayloadUrl, Stage
from gateway.batches.ids import line_id
from gateway.batches.intake import LineIntake
from gateway.batches.model import BatchSpec
from gateway.errors import Unavailable
from gateway.problems import HttpProblem
from gateway.shares.limits import Limits
from gateway.submission.create import JobCreator, PreparedJob
from gateway.telemetry import JobCounters

MAX_URL_LINES: Final = 16
"""How many lines of a batch with inputs by URL are in flight: a worker fetches few at a time."""

PREPARED_AT_ONCE: Final = 16
"""How many lines are prepared at the same time, which may store or look up their inputs."""


@dataclass(slots=True)
class SentLines:
    """The first `count` lines were sent, except those that are refused. `error` stopped the rest.

    Without an error, the rest must wait until other lines with URLs have ended, or for the limits
    of the tenant if `is_limited`.
    """

    count: int = 0
    refused: dict[int, JobError] = field(default_factory=dict)
    error: Unavailable | None = None
    is_limited: bool = False


class LineSender:
    """Prepares lines and sends their messages."""

    def __init__(
        self, intake: LineIntake, creator: JobCreator, counters: JobCounters, limits: Limits
    ) -> None:
        self._intake = intake
        self._creator = creator
        self._counters = counters
        self._limits = limits

    async def send(
        self, spec: BatchSpec, lines: Sequence[tuple[int, bytes]], in_flight: int
    ) -> SentLines:
        """Send lines, given with their numbers, of a batch that has `in_flight` lines elsewhere.

        Lines behind an error may have been sent, too. The queue drops their next messages, because
        a message has the id of its line.
        """
        sent = SentLines()
        places = {line_id(spec.id, number): spec.deadline_at for number, _ in lines}
        try:
            allowed = await self._limits.take_some(spec.tenant, places)
        except Unavailable as error:
            sent.error = error
            return sent
        lines, sent.is_limited = lines[:allowed], allowed < len(lines)
        jobs = await self._prepare_all(spec, lines, in_flight, sent)
        sending = (self._send(job) for job in jobs)
        for ended in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(ended, BaseException):
                sent.error = _unavailable(ended)
                break
            if ended is not None:
                sent.refused[lines[sent.count][0]] = ended
            sent.count += 1
        return sent

    async def _prepare_all(
        self,
        spec: BatchSpec,
        lines: Sequence[tuple[int, bytes]],
        in_flight: int,
        sent: SentLines,
    ) -> list[PreparedJob | JobError]:
        """Prepare the first lines, up to an error or the limit of lines with URLs."""
        jobs: list[PreparedJob | JobError] = []
        for start in range(0, len(lines), PREPARED_AT_ONCE):
            group = lines[start:][:PREPARED_AT_ONCE]
            preparing = (self._prepare(spec, *line) for line in group)
            for found in await asyncio.gather(*preparing, return_exceptions=True):
                if isinstance(found, BaseException):
                    sent.error = _unavailable(found)
                    return jobs
                if _has_url(found) and in_flight + len(jobs) >= MAX_URL_LINES:
                    return jobs
                jobs.append(found)
        return jobs

    async def _prepare(self, spec: BatchSpec, number: int, line: bytes) -> PreparedJob | JobError:
        await asyncio.sleep(0)  # other requests wait while a hundred lines are parsed
        try:
            return await self._intake.prepare(spec, number, line)
        except HttpProblem as problem:
            if problem.kind.retryable:
                raise Unavailable("queue", str(problem)) from problem
            return JobError(problem.kind.code, problem.detail, Stage.QUEUE, retryable=False)

    async def _send(self, job: PreparedJob | JobError) -> JobError | None:
        if isinstance(job, JobError):
            return job
        try:
            await self._creator.send(job)
        except (MessageTooLarge, UnknownModel) as error:
            return JobError(FailureCode.UNAVAILABLE, str(error), Stage.QUEUE, retryable=False)
        self._counters.record_accepted(job.request.model)
        return None


def _has_url(job: PreparedJob | JobError) -> bool:
    if isinstance(job, JobError):
        return False
    return any(isinstance(each, PayloadUrl) for each in job.request.all_inputs)


def _unavailable(error: BaseException) -> Unavailable:
    if not isinstance(error, Unavailable):
        raise error
    return error
