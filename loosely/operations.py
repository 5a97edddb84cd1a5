"""What the clients do, as steps: each operation once, for both of them."""

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import random
from typing import Final
from urllib.parse import urljoin

from loosely import answers
from loosely.answers import failure, job_in
from loosely.endpoint import Endpoint, Terms, fetch, put
from loosely.errors import LooselyError, PayloadTooLarge, UnexpectedAnswer, WaitTimedOut, ending_of
from loosely.job import Job, Model, Result, Upload
from loosely.payload import Payload
from loosely.retry import Retry, passes
from loosely.steps import Answer, Emit, Pause, Request, Steps, send

#: How long one question waits at the gateway: clouds' front doors cut what is silent for longer.
POLL_SECONDS: Final = 60
#: Up to this size, asking what a model takes costs more than being refused.
_SURELY_SMALL_BYTES: Final = 1024 * 1024
_REDIRECTS: Final = frozenset({302, 303, 307})
_SHORTEST_POLL_SECONDS: Final = 0.9
#: An answer that is given at the last moment still has to arrive.
_GRACE_SECONDS: Final = 2.0


def new_key() -> str:
    """Return an idempotency key that nobody has used."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations on one gateway. ``known_models`` is what was learnt of its models.

    With ``until``, a time of the clock, nothing is asked again or waited for after it.
    """

    endpoint: Endpoint
    retry: Retry = field(default_factory=Retry)
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random
    known_models: dict[str, Model] = field(default_factory=dict, repr=False)
    until: float | None = None

    def limited(self, wait_seconds: float | None) -> "Operations":
        """Return the same, over after ``wait_seconds`` from now."""
        return replace(self, until=None if wait_seconds is None else self.clock() + wait_seconds)

    @property
    def left_seconds(self) -> float:
        """How much of the time is left."""
        return math.inf if self.until is None else self.until - self.clock()

    @property
    def place(self) -> str:
        """What errors say of the address."""
        return self.endpoint.url.rstrip("/")

    def submit(self, terms: Terms, payload: Payload) -> Steps[Job]:
        """Hand in a payload, by upload where it is too large for a request."""
        if payload.size_bytes > _SURELY_SMALL_BYTES:
            model = self.known_models.get(terms.model) or (yield from self.model(terms.model))
            limit_bytes = model.input_limit_bytes
            if limit_bytes is not None and payload.size_bytes > limit_bytes:
                return (yield from self._by_upload(terms, payload))
        request = self.endpoint.submit(terms, payload.body, payload.media_type)
        try:
            return (yield from self._job(request, (200, 202)))
        except PayloadTooLarge:
            return (yield from self._by_upload(terms, payload))

    def submit_upload(self, terms: Terms, upload: Upload) -> Steps[Job]:
        """Hand in what was uploaded before."""
        return (yield from self._job(self.endpoint.submit_upload(terms, upload), (200, 202)))

    def _by_upload(self, terms: Terms, payload: Payload) -> Steps[Job]:
        upload = yield from self.upload(payload, terms.model)
        return (yield from self.submit_upload(terms, upload))

    def wait(self, job: Job | str, wait_seconds: float | None) -> Steps[Job]:
        """Ask until the job is final; raise what it ended with unless it succeeded.

        ``wait_seconds`` is what the caller had asked for, of which ``until`` tells the end.
        """
        latest = job if isinstance(job, Job) else None
        job_id = job if isinstance(job, str) else job.id
        while latest is None or not latest.is_final:
            if self.left_seconds <= 0:
                raise WaitTimedOut(job_id, wait_seconds or 0)
            asked_at = self.clock()
            try:
                latest = yield from self.get(job_id, int(min(POLL_SECONDS, self.left_seconds)) or 1)
            except LooselyError as error:
                if passes(error):
                    error.add_note(f"job {job_id} goes on")
                raise
            if not latest.is_final:
                yield from self.breathe(latest, self.clock() - asked_at)
        if latest.status != "succeeded":
            raise ending_of(latest)
        return latest

    def breathe(self, job: Job, waited_seconds: float) -> Steps[None]:
        """Keep ``Retry-After`` with a gateway that answered at once instead of waiting."""
        if waited_seconds < _SHORTEST_POLL_SECONDS:
            asked_seconds = job.retry_after_seconds
            pause_seconds = 1.0 if asked_seconds is None else min(max(asked_seconds, 0.1), 60.0)
            yield Pause(min(pause_seconds, max(0.0, self.left_seconds)))

    def get(self, job_id: str, wait_seconds: int = 0) -> Steps[Job]:
        """Ask for a job."""
        return (yield from self._job(self.endpoint.job(job_id, wait_seconds), (200,)))

    def cancel(self, job_id: str) -> Steps[Job]:
        """Cancel a job; return it as it then is."""
        return (yield from self._job(self.endpoint.cancel(job_id), (200, 202)))

    def result(self, job_id: str) -> Steps[Result | Job]:
        """Get the result alone, from where it lies, or the job while there is none."""
        answer = yield from self.ask(
            self.endpoint.result(job_id), (200, 202, *_REDIRECTS), self.place
        )
        if answer.status == 202:
            return job_in(answer, self.place)
        if answer.status in _REDIRECTS:
            try:
                request = fetch(urljoin(answer.url, answer.headers.get("location", "")))
            except ValueError:
                raise UnexpectedAnswer(
                    self.place, answer.status, "its Location is no URL"
                ) from None
            answer = yield from self._at_store(request, (200,), "the result was to be there")
        return Result(answer.body, answer.headers.get("content-type", ""))

    def upload(self, payload: Payload, model: str) -> Steps[Upload]:
        """Get a slot and fill it."""
        asked = self.endpoint.slot(model, payload.media_type)
        answer = yield from self.ask(asked, (201,), self.place)
        slot = answers.slot_in(answer, self.place)
        if slot.max_bytes is not None and payload.size_bytes > slot.max_bytes:
            raise PayloadTooLarge.over(slot.max_bytes, payload.size_bytes)
        try:
            request = put(slot, payload.media_type, payload.body)
        except ValueError:
            raise UnexpectedAnswer(self.place, 201, "the slot's address is no URL") from None
        yield from self._at_store(request, (200, 201), "the upload was to be taken")
        return Upload(slot.reference, payload.media_type, payload.size_bytes, slot.document)

    def models(self) -> Steps[tuple[Model, ...]]:
        """Get the catalogue."""
        answer = yield from self.ask(self.endpoint.models(), (200,), self.place)
        return answers.models_in(answer, self.place)

    def model(self, name: str) -> Steps[Model]:
        """Get one model."""
        answer = yield from self.ask(self.endpoint.model(name), (200,), self.place)
        model = answers.model_in(answer, self.place)
        self.known_models[name] = model
        return model

    def jobs(self, filters: Mapping[str, str | None]) -> Steps[None]:
        """Emit the caller's jobs, newest first, over as many pages as there are."""
        cursor: str | None = None
        while True:
            asked = self.endpoint.jobs(filters, cursor)
            answer = yield from self.ask(asked, (200,), self.place)
            page = answers.page_in(answer, self.place)
            for job in page.jobs:
                yield Emit(job)
            if page.next_cursor is None or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    def ask(self, request: Request, expected: Iterable[int], place: str) -> Steps[Answer]:
        """Send a request until it gets an answer of an expected status; raise what else it says.

        Every request can be sent again: a submit carries the same idempotency key each time.
        """
        wanted = frozenset(expected)
        failures, failing_since = 0, 0.0
        while True:
            error: LooselyError
            try:
                answer = yield from send(self._in_time(request))
            except LooselyError as lost:
                error = lost
            else:
                if answer.status in wanted:
                    return answer
                error = failure(answer, place)
            now = self.clock()
            failures += 1
            failing_since = failing_since if failures > 1 else now
            pause_seconds = self.retry.pause_seconds(
                error, failures, now - failing_since, self.draw
            )
            if pause_seconds is None or pause_seconds > self.left_seconds:
                raise error
            yield Pause(pause_seconds)

    def _in_time(self, request: Request) -> Request:
        seconds = max(1.0, self.left_seconds)
        if seconds >= request.timeout_seconds:
            return request
        return replace(request, timeout_seconds=seconds + _GRACE_SECONDS)

    def _job(self, request: Request, expected: tuple[int, ...]) -> Steps[Job]:
        answer = yield from self.ask(request, expected, self.place)
        return job_in(answer, self.place)

    def _at_store(self, request: Request, expected: tuple[int, ...], what: str) -> Steps[Answer]:
        """Send what goes not to the gateway but to where it keeps things."""
        try:
            return (yield from self.ask(request, expected, request.place))
        except UnexpectedAnswer as error:
            raise UnexpectedAnswer(request.place, error.status, what) from None
