"""The types in the public interface of `loosely`. mypy checks this file; no test runs it."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import assert_type

from loosely import (
    AsyncClient,
    Client,
    Event,
    Job,
    JobEnded,
    JobPage,
    Model,
    Outcome,
    Problem,
    Result,
    Retry,
    Timeline,
    TimelineDelivery,
    TimelineStep,
    Upload,
)


def synchronous(client: Client) -> None:
    assert_type(client.submit(b"", "m", wait_seconds=5), Job)
    assert_type(client.run(Path("file"), "m", parameters={"top": 3}), Job)
    assert_type(client.wait("id", wait_seconds=0.5), Job)
    assert_type(client.get("id"), Job)
    assert_type(client.timeline("id"), Timeline)
    assert_type(client.timeline("id").steps, tuple[TimelineStep, ...])
    assert_type(client.timeline("id").deliveries, tuple[TimelineDelivery, ...])
    assert_type(client.cancel("id"), Job)
    assert_type(client.result("id"), Result | Job)
    assert_type(client.map("m", [b"", Path("file")], concurrency=4), Iterator[Outcome])
    assert_type(client.iter_events("id"), Iterator[Event])
    assert_type(client.upload(Path("file"), "m"), Upload)
    assert_type(client.submit(client.upload(b"", "m"), "m"), Job)
    assert_type(client.models(), tuple[Model, ...])
    assert_type(client.model("m"), Model)
    assert_type(client.jobs(model="m", status="queued"), Iterator[Job])
    assert_type(client.find_jobs(label="a*", limit=5), JobPage)
    with Client("http://localhost", api_key="k", retry=Retry(total_seconds=1)) as inner:
        assert_type(inner, Client)


async def asynchronous(client: AsyncClient) -> None:
    assert_type(await client.submit(b"", "m"), Job)
    assert_type(await client.run(Path("file"), "m", label="a"), Job)
    assert_type(await client.find_jobs(label="a*", limit=5), JobPage)
    assert_type(await client.wait("id"), Job)
    assert_type(await client.get("id"), Job)
    assert_type(await client.timeline("id"), Timeline)
    assert_type(await client.cancel("id"), Job)
    assert_type(await client.result("id"), Result | Job)
    assert_type(client.map(model="m", inputs=[b""]), AsyncGenerator[Outcome, None])
    assert_type(client.iter_events("id"), AsyncGenerator[Event, None])
    assert_type(await client.upload(b"", "m"), Upload)
    assert_type(await client.models(), tuple[Model, ...])
    assert_type(await client.model("m"), Model)
    assert_type(client.jobs(), AsyncGenerator[Job, None])
    async with AsyncClient() as inner:
        assert_type(inner, AsyncClient)


def errors(problem: Problem, ended: JobEnded) -> None:
    assert_type(problem.job, Job | None)
    assert_type(problem.retryable, bool)
    assert_type(ended.code, str)
    assert_type(ended.trace_id, str | None)

    client = Client()
    client.submit("a text", "m")  # type: ignore[arg-type] # a path must be a Path
    client.submit(b"")  # type: ignore[call-arg] # the model is missing
