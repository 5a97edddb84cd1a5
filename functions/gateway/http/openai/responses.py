"""The routes under /openai/v1/responses.

https://platform.openai.com/docs/api-reference/responses

A response is a job, and its id contains the job's id. A stream begins with our `response.created`.
Then come the events of an engine, or those made of a model's texts, with new sequence numbers. They
depend only on the log of the job, so a stream can be resumed after any number, in any process. If
the model runs again, the numbers jump, and a stream from before cannot be resumed.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from contract.streams import BEFORE_ALL, EventId
from gateway import problems
from gateway.http.openai.calls import cancel, read_job, result_of, run, submit
from gateway.http.openai.streams import CallStream, encode_data, stream_call
from gateway.http.requests import (
    TextRoute,
    caller_of,
    durable_of,
    find_own_job,
    refuse_unknown_query,
    services_of,
)
from gateway.http.responses import json_response
from gateway.jobs.model import JobStatus, Record, is_final
from gateway.openai.calls import JOB_HEADER, CallResult, refused
from gateway.openai.chat import text_of
from gateway.openai.responses import RESPONSES, complete, message_of, part_of, show
from gateway.problems import HttpProblem
from gateway.submission.create import SubmittedJob

_ID: Final = re.compile("resp_([0-9a-f]{32})")
_CANCEL_SECONDS: Final = 2.0

_ATTEMPT_NUMBERS: Final = 10**9
"""By how much the sequence numbers of two attempts differ."""

_BEGINNINGS: Final = frozenset({"response.created", "response.queued"})
_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/responses")
async def create_response(request: Request) -> Response:
    """Return the response of a model: whole, as a stream, or at once if it is in the background.

    The model gets the request's JSON without `background`. It returns a text, or the object of the
    OpenAI API; it emits texts, or the API's events.
    """
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, job = await read_job(request, RESPONSES, held)
        in_background = bool(asked.get("background"))
        job = replace(job, is_background=in_background)
        if asked.get("stream"):
            return await stream_call(request, job, ResponseStream, cancels=not in_background)
        if in_background:
            submitted = await submit(request, job, 0)
            return await _answer(request, submitted.job_id, submitted.record)
        result = await run(request, job)
    return json_response(complete(result), headers=result.headers)


@router.get("/openai/v1/responses/{response_id}")
async def retrieve_response(
    request: Request,
    response_id: str,
    stream: str | None = None,
    starting_after: str | None = None,
) -> Response:
    """Return a response, or its events after a sequence number."""
    known = ("include", "include[]", "include_obfuscation", "starting_after", "stream")
    refuse_unknown_query(request, known)
    job_id, record = await _find(request, response_id)
    if stream != "true":
        return await _answer(request, job_id, record)
    after = starting_after or "-1"
    if not re.fullmatch("-1|[0-9]{1,15}", after):
        raise refused("starting_after", "expected the sequence_number of an event")
    begun = await services_of(request).streams.find_run(job_id, record)
    if 0 < int(after) < _first_number(begun):
        raise refused(
            "starting_after", "the model runs again, so its former events do not count; omit it"
        )
    with ExitStack() as slot:
        slot.enter_context(services_of(request).streams.opening(caller_of(request).tenant))
        form = ResponseStream(job_id, record, begun, int(after))
        cancels = not record.get("background", False)
        following = CallStream(request, job_id, record, form, cancels=cancels, after=begun)
        return following.response(slot.pop_all())
    raise AssertionError("the block returns or raises")


@router.post("/openai/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a response that has not ended, and return it. Its worker gets a moment to stop."""
    refuse_unknown_query(request)
    job_id, record = await _find(request, response_id)
    await cancel(request, job_id, record)
    job = SubmittedJob(job_id, await find_own_job(request, job_id), is_replay=False)
    job = await services_of(request).creator.wait(durable_of(request), job, _CANCEL_SECONDS)
    return await _answer(request, job_id, job.record)


async def _find(request: Request, response_id: str) -> tuple[str, Record]:
    """Return the job's id and record of a response. Raises the problem `not-found`."""
    unknown = HttpProblem(problems.NOT_FOUND, f"there is no response {response_id[:100]!r}")
    if (found := _ID.fullmatch(response_id)) is None:
        raise unknown
    job_id = str(UUID(found[1]))
    try:
        record = await find_own_job(request, job_id)
    except HttpProblem:
        raise unknown from None
    if record.get("operation") != RESPONSES.name:
        raise unknown
    return job_id, record


async def _answer(request: Request, job_id: str, record: Record) -> Response:
    """Return the present state of a response."""
    headers = {JOB_HEADER: job_id}
    if record["status"] == JobStatus.SUCCEEDED:
        shown = complete(await result_of(request, job_id, record))
        return json_response(shown, headers=headers)
    if not is_final(record):
        record = await services_of(request).progress.add_to_if_available(job_id, record)
    return json_response(show(job_id, record), headers=headers)


def _first_number(begun: EventId) -> int:
    """Return the number of the first event, after the begin, of the run that began with an event.

    It is above all numbers of former runs, which have at most four events more than chunks.
    """
    attempt, number = begun
    return 1 if begun <= (1, 0) else (attempt - 1) * _ATTEMPT_NUMBERS + 4 * number + 4


class ResponseStream:
    """The events of a streamed response, of which those up to number `after` are left out.

    `begun` is the event with which the model's run began.
    """

    def __init__(
        self, job_id: str, record: Record, begun: EventId = BEFORE_ALL, after: int = -1
    ) -> None:
        self._job_id = job_id
        self._record = {**record, "status": JobStatus.QUEUED.value, "error": None}
        self._after = after
        self._begun = begun
        self._number = -1
        self._item: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None

    def begin(self) -> Iterable[bytes]:
        """Return the event `response.created`."""
        yield from self._event("response.created", response=show(self._job_id, self._record))
        self.restart(self._begun)

    def restart(self, begun: EventId) -> None:
        """Continue with the numbers of another run."""
        self._number = _first_number(begun) - 1

    def chunk(self, data: Any) -> Iterable[bytes]:
        """Return an engine's event with our id and number, or the events for a text."""
        kind = data.get("type") if isinstance(data, dict) else None
        if not isinstance(kind, str):
            return self._delta(data if isinstance(data, str) else text_of(data))
        if kind in _BEGINNINGS:
            return ()
        event = {name: each for name, each in data.items() if name != "sequence_number"}
        if isinstance(event.get("response"), dict):
            event["response"] = {**event["response"], "id": f"resp_{self._hex}"}
        if kind in _ENDS:
            self._last = event  # it is sent when the job has ended
            return ()
        return self._event(**event)

    def end(self, result: CallResult) -> Iterable[bytes]:
        """Return the events that complete the response."""
        if self._last is not None:
            return self._event(**self._last)
        return self._finish(result.json(), complete(result))

    def error(self, problem: HttpProblem) -> Iterable[bytes]:
        """Return the event of a failed response, or of a stream that cannot go on."""
        if (job := problem.extra.get("job")) is None:
            return self._event("error", code=problem.kind.code, message=problem.detail, param=None)
        error = job["error"] or {"code": problem.kind.code, "message": problem.detail}
        failed = show(self._job_id, {**self._record, "status": job["status"], "error": error})
        return self._event("response.failed", response=failed)

    @property
    def _hex(self) -> str:
        return self._job_id.replace("-", "")

    def _finish(self, found: Any, whole: dict[str, Any]) -> Iterator[bytes]:
        if not isinstance(found, dict) or found.get("object") != "response":
            if self._item is None:
                yield from self._delta(text_of(found))
            (item,) = whole["output"]
            text = item["content"][0]["text"]
            yield from self._atpart_of("response.output_text.done", text=text, logprobs=[])
            yield from self._atpart_of("response.content_part.done", part=part_of(text))
            yield from self._event("response.output_item.done", output_index=0, item=item)
        yield from self._event("response.completed", response=whole)

    def _delta(self, text: str) -> Iterator[bytes]:
        if self._item is None:
            self._item = message_of(self._job_id, None)
            running = {**self._record, "status": JobStatus.RUNNING.value}
            yield from self._event("response.in_progress", response=show(self._job_id, running))
            yield from self._event("response.output_item.added", output_index=0, item=self._item)
            yield from self._atpart_of("response.content_part.added", part=part_of(""))
        yield from self._atpart_of("response.output_text.delta", delta=text, logprobs=[])

    def _atpart_of(self, type: str, **more: Any) -> Iterator[bytes]:  # noqa: A002 - its name
        place = {"item_id": f"msg_{self._hex}", "output_index": 0, "content_index": 0}
        return self._event(type, **place, **more)

    def _event(self, type: str, **more: Any) -> Iterator[bytes]:  # noqa: A002 - its name
        self._number += 1
        if self._number > self._after:
            event = {"type": type, "sequence_number": self._number, **more}
            yield encode_data(event, type)
