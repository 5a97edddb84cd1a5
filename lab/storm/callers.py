"""Submit, cancel and read the jobs of a storm, a test that kills components under load."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from lab.storm.jobs import JobKind, StormJob, StormSubmission

_SWEEP_PAUSE_SECONDS = 0.5
_READ_AGAIN_COUNT = 5
_TIMEOUT_SECONDS = 60.0


_Send = Callable[[str, str, Mapping[str, str]], Awaitable[httpx.Response | None]]


class UnexpectedResponse(Exception):
    """The gateway sent a response that it must not send, such as the refusal of a valid request."""


class StormCallers:
    """Simulates `count` callers, which submit, cancel and read jobs, and repeat failed requests.

    All callers share one connection pool. The test's model appends each job that it runs to the
    file `ran_path`.
    """

    def __init__(
        self,
        url: str,
        ran_path: Path,
        count: int = 8,
        retry_seconds: float = 0.2,
        wait_seconds: int = 20,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=_TIMEOUT_SECONDS,
            # The components are on loopback, so do not use a proxy that the environment names.
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )
        self._ran_path = ran_path
        self._count = count
        self._retry_seconds = retry_seconds
        self._wait_seconds = wait_seconds
        #: The number of requests without a response, or with a response 5xx or 429.
        self.retries = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def submit_all(self, jobs: "asyncio.Queue[StormJob]") -> None:
        """Take jobs from `jobs` and submit them, until the calling task is cancelled."""

        async def caller() -> None:
            while True:
                job = await jobs.get()
                await self.submit(job)
                jobs.task_done()

        async with asyncio.TaskGroup() as callers:
            for _ in range(self._count):
                callers.create_task(caller())

    async def submit(self, job: StormJob) -> None:
        """Submit a job, and repeat the request until the gateway accepts the job.

        Cancel a job of the kind CANCEL after it was accepted. For a job of the kind KEYED, send two
        requests with the same idempotency key at the same time.

        Raises:
            UnexpectedResponse: if the gateway refuses the request.
        """
        match job.kind:
            case JobKind.WAIT:
                await self._submit(job, {"prefer": f"wait={self._wait_seconds}"})
            case JobKind.KEYED:
                # All requests with one key create one job, so all must have the same input.
                key = {
                    "prefer": "respond-async",
                    "idempotency-key": f'"{self._ran_path}{job.number}"',
                }
                async with asyncio.TaskGroup() as twice:
                    twice.create_task(self._submit(job, key, is_one_job=True))
                    twice.create_task(self._submit(job, key, is_one_job=True))
            case JobKind.ASYNC | JobKind.CANCEL:
                await self._submit(job, {"prefer": "respond-async"})
        if job.kind is JobKind.CANCEL and job.is_accepted:
            await self.cancel(job)

    async def _submit(
        self, job: StormJob, headers: Mapping[str, str], *, is_one_job: bool = False
    ) -> None:
        attempt = 1
        while True:
            submission = await self.prepare(job, attempt)
            known = job.known
            response = await self._once(
                "POST",
                submission.path,
                content=submission.content,
                headers={**job.headers, **submission.headers, **headers},
            )
            if response is not None:
                break
            attempt += 0 if is_one_job else 1
            await asyncio.sleep(self._retry_seconds)
        body = response.json()
        # If the job failed during the wait, the problem document contains it.
        shown = body if response.is_success else body.get("job")
        if shown is None:
            self.refuse(f"job {job.number}: {response.status_code} {response.text[:500]}")
            return
        job.accept(shown["id"], submission.label)
        if shown["id"] == job.ids[0]:
            job.see(shown, known, " in the response to the submit")

    async def prepare(self, job: StormJob, attempt: int) -> StormSubmission:
        """Return the request for one attempt to submit the job. Attempts are counted from 1."""
        return job.submission(self._ran_path, attempt)

    def refuse(self, text: str) -> None:
        """End the test with UnexpectedResponse, because the gateway sent a wrong response."""
        raise UnexpectedResponse(text)

    async def cancel(self, job: StormJob) -> None:
        """Cancel a job, and read the job immediately afterwards.

        Raises:
            UnexpectedResponse: if the gateway refuses the request.
        """
        path = f"/v1/jobs/{job.ids[0]}"
        known = replace(job.known, is_cancelled=True)
        response = await self.until_answered("DELETE", path, job.headers)
        if response.status_code not in {200, 202}:
            self.refuse(f"DELETE {path}: {response.status_code} {response.text[:500]}")
            return
        job.cancel_answered = True
        job.see(response.json(), known, " in the response to the DELETE")
        await self._read(job, self.until_answered, moment=" right after the DELETE")

    async def _read(
        self, job: StormJob, send: _Send, *, host_url: str = "", moment: str = ""
    ) -> None:
        known = job.known
        response = await send("GET", f"{host_url}/v1/jobs/{job.ids[0]}", job.headers)
        if response is None:
            return
        if response.status_code == 404:
            job.see_unknown(known)
        elif response.status_code == 200:
            job.see(response.json(), known, moment)
        else:
            self.refuse(f"{response.url}: {response.status_code} {response.text[:500]}")

    async def read(self, job: StormJob) -> None:
        """Read an accepted job once, and record its state. Do nothing if the request fails."""
        await self._read(job, self._get)

    async def watch(self, jobs: Sequence[StormJob]) -> None:
        """Read jobs again and again, until this task is cancelled.

        Each round reads all accepted jobs that have not ended, and a few jobs that have ended.
        """
        while True:
            ended = [job for job in jobs if job.final is not None]
            again = random.sample(ended, min(_READ_AGAIN_COUNT, len(ended)))
            await self._read_each([job for job in jobs if job.is_open] + again, self._get)
            await asyncio.sleep(_SWEEP_PAUSE_SECONDS)

    async def read_again(self, jobs: Iterable[StormJob], host_url: str) -> None:
        """Read each job from a Functions host until it is answered, and record the job's state."""
        await self._read_each(jobs, self.until_answered, host_url)

    async def _read_each(self, jobs: Iterable[StormJob], send: _Send, host_url: str = "") -> None:
        left = iter(jobs)

        async def reader() -> None:
            for job in left:
                await self._read(job, send, host_url=host_url)

        async with asyncio.TaskGroup() as readers:
            for _ in range(self._count // 2):
                readers.create_task(reader())

    async def _get(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> httpx.Response | None:
        return await self._once(method, url, headers=headers)

    async def until_answered(
        self, method: str, url: str, headers: Mapping[str, str], **request: Any
    ) -> httpx.Response:
        """Send a request until it is answered, and not with 429 or 5xx; return the response."""
        while True:
            response = await self._once(method, url, headers=headers, **request)
            if response is not None:
                return response
            await asyncio.sleep(self._retry_seconds)

    async def _once(self, method: str, url: str, **request: Any) -> httpx.Response | None:
        """Send a request once, and return the response, or None if the request must be repeated.

        A request must be repeated if there is no response, or if the response has the status 429
        or 5xx and contains no job.
        """
        try:
            response = await self._http.request(method, url, **request)
        except httpx.TransportError:
            response = None
        if response is None or response.status_code == 429 or response.status_code >= 500:
            if response is not None and "job" in _json(response):
                return response
            self.retries += 1
            return None
        return response


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
