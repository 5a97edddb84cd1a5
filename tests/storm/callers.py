"""The callers of a storm: they submit, cancel and read, and try again whenever they must."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.storm.jobs import Job, Kind

_RETRY_SECONDS = 0.2
_SWEEP_PAUSE_SECONDS = 0.5
_READ_AGAIN_COUNT = 5
_TIMEOUT_SECONDS = 60.0


_Send = Callable[[str, str], Awaitable[httpx.Response | None]]


class UnexpectedAnswer(Exception):
    """The gateway refused what it must accept."""


class Callers:
    """A few callers that share their connections, as behind one proxy."""

    def __init__(self, url: str, ran_path: Path, count: int = 8) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=_TIMEOUT_SECONDS,
            # The parts are on loopback, which no proxy of the environment reaches.
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )
        self._ran_path = ran_path
        self._count = count
        #: Requests without an answer, or with a 5xx or 429 for one.
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

    async def submit_all(self, jobs: "asyncio.Queue[Job]") -> None:
        """Submit the jobs of the queue until cancelled."""

        async def caller() -> None:
            while True:
                job = await jobs.get()
                await self.submit(job)
                jobs.task_done()

        async with asyncio.TaskGroup() as callers:
            for _ in range(self._count):
                callers.create_task(caller())

    async def submit(self, job: Job) -> None:
        """Submit a job as its kind asks for, until it is accepted; cancel it if that is its kind.

        Raises:
            UnexpectedAnswer: the gateway refused it.
        """
        match job.kind:
            case Kind.WAIT:
                await self._submit(job, {"prefer": "wait=20"})
            case Kind.KEYED:
                # The key makes all tries one job, so they must have one input.
                key = {
                    "prefer": "respond-async",
                    "idempotency-key": f'"{self._ran_path}{job.number}"',
                }
                async with asyncio.TaskGroup() as twice:
                    twice.create_task(self._submit(job, key, is_one_job=True))
                    twice.create_task(self._submit(job, key, is_one_job=True))
            case Kind.ASYNC | Kind.CANCEL:
                await self._submit(job, {"prefer": "respond-async"})
        if job.kind is Kind.CANCEL:
            await self.cancel(job)

    async def _submit(
        self, job: Job, headers: Mapping[str, str], *, is_one_job: bool = False
    ) -> None:
        attempt = 1
        while True:
            label, data = job.input(self._ran_path, attempt)
            told = job.told
            answer = await self._once(
                "POST",
                "/v1/models/counting/jobs",
                content=data,
                headers={"content-type": "text/plain", **headers},
            )
            if answer is not None:
                break
            attempt += 0 if is_one_job else 1
            await asyncio.sleep(_RETRY_SECONDS)
        body = answer.json()
        # A job that ended badly while its caller waited is in the problem that the caller gets.
        said = body if answer.is_success else body.get("job")
        if said is None:
            raise UnexpectedAnswer(f"job {job.number}: {answer.status_code} {answer.text[:500]}")
        job.accept(said["id"], label)
        if said["id"] == job.ids[0]:
            job.see(said, told, " in the answer to the submit")

    async def cancel(self, job: Job) -> None:
        """Cancel a job, and look at it right after that.

        Raises:
            UnexpectedAnswer: the gateway refused it.
        """
        path = f"/v1/jobs/{job.ids[0]}"
        told = replace(job.told, is_cancelled=True)
        answer = await self._until_answered("DELETE", path)
        if answer.status_code not in {200, 202}:
            raise UnexpectedAnswer(f"DELETE {path}: {answer.status_code} {answer.text[:500]}")
        job.cancel_answered = True
        job.see(answer.json(), told, " in the answer to the DELETE")
        await self._read(job, self._until_answered, where=" right after the DELETE")

    async def _read(self, job: Job, send: _Send, *, host_url: str = "", where: str = "") -> None:
        told = job.told
        answer = await send("GET", f"{host_url}/v1/jobs/{job.ids[0]}")
        if answer is None:
            return
        if answer.status_code == 404:
            job.see_unknown(told)
        elif answer.status_code == 200:
            job.see(answer.json(), told, where)
        else:
            raise UnexpectedAnswer(f"{answer.url}: {answer.status_code} {answer.text[:500]}")

    async def watch(self, jobs: Sequence[Job]) -> None:
        """Read all open jobs, and some ended ones, again and again until cancelled."""
        while True:
            ended = [job for job in jobs if job.final is not None]
            again = random.sample(ended, min(_READ_AGAIN_COUNT, len(ended)))
            await self._read_each([job for job in jobs if job.is_open] + again, self._once)
            await asyncio.sleep(_SWEEP_PAUSE_SECONDS)

    async def read_again(self, jobs: Iterable[Job], host_url: str) -> None:
        """Read each job from this host, until there is an answer."""
        await self._read_each(jobs, self._until_answered, host_url)

    async def _read_each(self, jobs: Iterable[Job], send: _Send, host_url: str = "") -> None:
        left = iter(jobs)

        async def reader() -> None:
            for job in left:
                await self._read(job, send, host_url=host_url)

        async with asyncio.TaskGroup() as readers:
            for _ in range(self._count // 2):
                readers.create_task(reader())

    async def _until_answered(self, method: str, url: str) -> httpx.Response:
        while True:
            answer = await self._once(method, url)
            if answer is not None:
                return answer
            await asyncio.sleep(_RETRY_SECONDS)

    async def _once(self, method: str, url: str, **request: Any) -> httpx.Response | None:
        """Send a request; None if the answer is lost, or says that trying again may help."""
        try:
            answer = await self._http.request(method, url, **request)
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code == 429 or answer.status_code >= 500:
            if answer is not None and "job" in _json(answer):
                return answer
            self.retries += 1
            return None
        return answer


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
