"""The gateway over HTTP: submit a job, ask for it, fetch its result."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import httpx

from loosely import __version__
from loosely.errors import (
    GatewayUnreachable,
    JobEnded,
    LooselyError,
    Problem,
    RequestRefused,
    UnexpectedAnswer,
    problem_from,
)
from loosely.job import Job, Result
from loosely.media import media_type_of

DEFAULT_URL: Final = "http://127.0.0.1:7071"
DEFAULT_WAIT_SECONDS: Final = 30

_CONNECT_TIMEOUT_SECONDS = 5.0
#: What an answer may take beyond the wait that was asked for.
_ANSWER_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 1.0
_QUESTION_WAIT_SECONDS = 10
_LONGEST_POLL_SECONDS = 60.0
#: How long a job is asked for in vain before its follower gives up.
_SILENCE_SECONDS = 60.0
_HIGHEST_PORT = 65535
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSING_STATUSES = frozenset({429, 502, 503, 504})


class Client:
    """A connection to one gateway; close it, or use it in a ``with``.

    Every method raises :exc:`~loosely.errors.LooselyError` and nothing else for what the
    network or the gateway do.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``url`` is where the gateway is, with a path if it has one.

        Raises:
            ValueError: ``url`` is not an http or https URL.
        """
        address = _parse(url)
        self.url = url.rstrip("/")
        self._clock = clock
        self._sleep = sleep
        self._http = httpx.Client(
            headers={"user-agent": f"loosely/{__version__}", "accept": "application/json, */*"},
            timeout=httpx.Timeout(_ANSWER_TIMEOUT_SECONDS, connect=_CONNECT_TIMEOUT_SECONDS),
            # A proxy that the environment names cannot reach this machine's loopback.
            trust_env=address.host not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def submit(
        self,
        payload: bytes,
        model: str,
        *,
        media_type: str | None = None,
        wait_seconds: int = DEFAULT_WAIT_SECONDS,
        deadline_seconds: int | None = None,
    ) -> Job:
        """Hand in ``payload`` for ``model``; return the job as it is after the wait.

        The job is final if it ended within ``wait_seconds`` (0 to 200), else to be
        followed. The media type is found from the bytes unless it is given.

        Raises:
            RequestRefused: no job was made.
            JobEnded: the job ended without a result within the wait.
        """
        headers = {
            "content-type": media_type or media_type_of(payload),
            "prefer": f"wait={wait_seconds}" if wait_seconds > 0 else "respond-async",
        }
        options = {} if deadline_seconds is None else {"deadline_seconds": str(deadline_seconds)}
        answer = self._send(
            "POST",
            f"/v1/models/{quote(model, safe='')}/jobs",
            headers=headers,
            params=options,
            content=payload,
            wait_seconds=wait_seconds,
        )
        return self._job_in(answer, {200, 202})

    def job(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        """Return the job as it is now or, if it is not final, as it is after the wait.

        Raises:
            RequestRefused: there is no such job.
        """
        headers = {"prefer": f"wait={wait_seconds}"} if wait_seconds > 0 else {}
        answer = self._send("GET", _job_path(job_id), headers=headers, wait_seconds=wait_seconds)
        return self._job_in(answer, {200})

    def follow(self, job: Job | str, *, wait_seconds: float | None = None) -> Iterator[Job]:
        """Yield the job, given itself or by its id, whenever it was asked for, until it is final.

        A job just submitted says when to ask first. Each question waits at the gateway for
        a moment, so that the end is heard at once; between two, the gateway's
        ``Retry-After`` is kept. A gateway that is away for a moment does not end this: an
        accepted job outlives it.

        Raises:
            LooselyError: the last failure, when no answer came for a minute.
            TimeoutError: ``wait_seconds`` have passed.
        """
        started_at = heard_at = self._clock()
        job_id = job if isinstance(job, str) else job.id
        if isinstance(job, Job) and not job.is_final:
            self._sleep(_pause_seconds(job.retry_after_seconds))
        while True:
            try:
                latest = self.job(job_id, wait_seconds=_QUESTION_WAIT_SECONDS)
            except (GatewayUnreachable, RequestRefused) as error:
                now = self._clock()
                if not _passes(error) or now - heard_at >= _SILENCE_SECONDS:
                    raise
                asked_seconds = getattr(error, "retry_after_seconds", None)
            else:
                now = heard_at = self._clock()
                yield latest
                if latest.is_final:
                    return
                asked_seconds = latest.retry_after_seconds
            pause_seconds = _pause_seconds(asked_seconds)
            if wait_seconds is not None and now + pause_seconds > started_at + wait_seconds:
                raise TimeoutError(f"job {job_id} is not final after {wait_seconds} s")
            self._sleep(pause_seconds)

    def result(self, job_id: str) -> Result | Job:
        """Return the result alone, or the job while it has none yet.

        Raises:
            JobEnded: the job ended without a result.
            RequestRefused: there is no such job.
        """
        answer = self._send("GET", f"{_job_path(job_id)}/result")
        if answer.status_code == 202:
            return self._job_in(answer, {202})
        if answer.is_redirect and "location" in answer.headers:
            answer = self._fetch(answer)
        if answer.status_code == 200:
            return Result(answer.content, answer.headers.get("content-type", ""))
        raise self._failure(answer)

    def _send(  # noqa: PLR0913 - the parts of an HTTP request
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        content: bytes | None = None,
        wait_seconds: float = 0,
    ) -> httpx.Response:
        timeout = httpx.Timeout(
            wait_seconds + _ANSWER_TIMEOUT_SECONDS, connect=_CONNECT_TIMEOUT_SECONDS
        )
        try:
            return self._http.request(
                method,
                self.url + path,
                headers=headers,
                params=params,
                content=content,
                timeout=timeout,
            )
        except httpx.HTTPError as error:
            raise GatewayUnreachable(self.url, _reason(error)) from error

    def _fetch(self, redirect: httpx.Response) -> httpx.Response:
        """Get a large result from where the gateway keeps it, a link good for a short while."""
        try:
            url = _parse(str(redirect.url.join(redirect.headers["location"])))
        except (httpx.InvalidURL, ValueError):
            raise UnexpectedAnswer(
                self.url, redirect.status_code, "its Location is no URL"
            ) from None
        # The link is a secret: of it, only where it leads to may be shown.
        place = f"{url.scheme}://{url.host}"
        try:
            answer = self._http.get(url)
        except httpx.HTTPError as error:
            raise GatewayUnreachable(place, _reason(error)) from error
        if answer.status_code != 200:
            raise UnexpectedAnswer(place, answer.status_code, "the result was to be there")
        return answer

    def _job_in(self, answer: httpx.Response, expected: set[int]) -> Job:
        if answer.status_code not in expected:
            raise self._failure(answer)
        job = Job.from_body(answer.content, _retry_after_seconds(answer))
        if job is None:
            raise UnexpectedAnswer(self.url, answer.status_code, "with no job in it")
        return job

    def _failure(self, answer: httpx.Response) -> LooselyError:
        problem = problem_from(answer.status_code, answer.content, _retry_after_seconds(answer))
        if problem is not None:
            return problem
        return UnexpectedAnswer(
            self.url, answer.status_code, "with no problem document: is a Loosely gateway there?"
        )


def _parse(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an http:// or https:// URL: {error}") from None
    is_whole = address.scheme in {"http", "https"} and address.host
    if not is_whole or (address.port or 0) > _HIGHEST_PORT:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    return address


def _job_path(job_id: str) -> str:
    # Built from the id and not taken from `Location`: what the caller named as the gateway
    # is where its requests go, whatever address the gateway believes itself to have.
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _passes(error: LooselyError) -> bool:
    """Tell whether asking again may help."""
    if isinstance(error, JobEnded):
        return False
    return not isinstance(error, Problem) or error.status in _PASSING_STATUSES


def _retry_after_seconds(answer: httpx.Response) -> float | None:
    """Return ``Retry-After`` when it is a number of seconds, kept within reason."""
    value = answer.headers.get("retry-after", "").strip()
    if not (value.isascii() and value.isdigit()):
        return None
    return min(float(value), _LONGEST_POLL_SECONDS)


def _pause_seconds(asked_seconds: float | None) -> float:
    return _POLL_SECONDS if asked_seconds is None else asked_seconds


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
