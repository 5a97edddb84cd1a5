"""Events: their ids and names, and what a reader who comes back is told."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import DEFAULT_PATH
from contract.names import progress_url
from gateway.api.routes import events as route
from gateway.jobs.events import HEARTBEAT, Place, event
from tests.unit.gateway import skipping
from tests.unit.gateway.conftest import STARTED_AT, World, gateway

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


@dataclass(frozen=True)
class Event:
    """One event as a reader has it."""

    name: str
    id: str
    job: dict[str, Any]


def read(text: str) -> list[Event]:
    blocks = [block for block in text.split("\n\n") if block.startswith("event: ")]
    fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [Event(found["event"], found["id"], json.loads(found["data"])) for found in fields]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway whose noop reports its progress."""
    path = tmp_path / "models.toml"
    path.write_text(f"{DEFAULT_PATH.read_text('utf-8')}\nreports_progress = true\n", "utf-8")
    async with gateway(catalogue_path=path) as opened:
        yield opened


async def events(world: World, job_id: str, last: str = "") -> httpx.Response:
    return await world.http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": last})


async def test_an_ended_job_is_one_event(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    answer = await events(world, job_id)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("retry: 2000\n\n")
    (final,) = read(answer.text)
    assert (final.name, final.id) == ("final", "3.0.0")
    assert final.job == await world.job(job_id)


async def test_who_has_had_the_final_event_need_not_come_again(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    answer = await events(world, job_id, last="3.0.0")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "1.1.4", "2.9.9", "nonsense", "9.9.9", "-1.0.0", "1.1"])
async def test_any_other_reader_is_told_the_end(world: World, last: str) -> None:
    job_id = await world.accept()
    await world.reply()
    assert [found.name for found in read((await events(world, job_id, last)).text)] == ["final"]


async def test_nobody_elses_and_no_unknown_job(world: World) -> None:
    for job_id in ("x", "018f0000-0000-7000-8000-000000000000"):
        answer = await events(world, job_id)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown-job")


async def test_a_host_that_cannot_stream(world: World) -> None:
    job_id = await world.accept()
    transport: Any = world.http._transport
    streaming = transport.app

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        await streaming({**scope, "gateway.streams": False}, receive, send)

    transport.app = whole
    answer = await events(world, job_id)
    assert (answer.status_code, answer.json()["code"]) == (501, "streaming-unavailable")


class Reader:
    """The stream itself, chunk by chunk, so that a test decides when time passes."""

    def __init__(self, world: World, job_id: str) -> None:
        story = route._Story(world.services, world.durable, job_id, {"model": "noop"})
        self._chunks = story.told(None)
        self._text = ""

    async def next(self) -> str:
        return (await anext(self._chunks)).decode()

    async def event(self) -> Event:
        (found,) = read(await self.next())
        return found


def test_a_life_is_told_as_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f"{DEFAULT_PATH.read_text('utf-8')}\nreports_progress = true\n", "utf-8")

    async def life() -> None:
        async with gateway(catalogue_path=path) as world:
            job_id = await world.accept()
            reader = Reader(world, job_id)
            assert await reader.next() == "retry: 2000\n\n"
            told = [await reader.event()]
            url = progress_url(world.queues.request().reply_url or "") or ""
            for sequence, fraction in enumerate((None, 0.5)):
                report = {"attempt": 1, "sequence": sequence, "started_at": STARTED_AT}
                await world.http.put(
                    url, json={**report, "fraction": fraction} if fraction else report
                )
                told.append(await reader.event())
            await world.http.delete(f"/v1/jobs/{job_id}")
            told.append(await reader.event())
            await world.durable.advance(30)
            told.append(await reader.event())
            assert [(found.name, found.id) for found in told] == [
                ("status", "0.0.0"),
                ("status", "1.1.0"),
                ("progress", "1.1.1"),
                ("status", "2.1.1"),
                ("final", "3.0.0"),
            ]
            assert [found.job["status"] for found in told] == [
                *("queued", "running", "running", "cancelling", "cancelled")
            ]
            with pytest.raises(StopAsyncIteration):
                await reader.next()

    skipping.run(life())


def test_silence_is_broken_by_heartbeats() -> None:
    async def silence() -> None:
        async with gateway() as world:
            reader = Reader(world, await world.accept())
            for _ in range(2):
                await reader.next()
            assert [await reader.next() for _ in range(3)] == [HEARTBEAT.decode()] * 3

    skipping.run(silence())


def test_a_store_that_is_away_ends_no_stream() -> None:
    async def away() -> None:
        async with gateway() as world:
            job_id = await world.accept()
            reader = Reader(world, job_id)
            for _ in range(2):
                await reader.next()
            world.durable.is_down = True
            assert await reader.next() == HEARTBEAT.decode()
            world.durable.is_down = False
            await world.reply()
            assert (await reader.event()).job["status"] == "succeeded"

    skipping.run(away())


def test_a_job_that_is_purged_meanwhile_ends_the_stream() -> None:
    async def purged() -> None:
        async with gateway() as world:
            reader = Reader(world, await world.accept())
            for _ in range(2):
                await reader.next()
            world.durable.runs.clear()
            with pytest.raises(StopAsyncIteration):
                await reader.next()

    skipping.run(purged())


PLACES = st.builds(
    Place, st.integers(0, 3), st.integers(0, 999_999_999), st.integers(0, 999_999_999)
)


@given(PLACES)
def test_an_id_is_read_as_it_was_written(place: Place) -> None:
    assert Place.parse(str(place)) == place


@given(st.text())
def test_other_ids_are_not_ours(text: str) -> None:
    found = Place.parse(text)
    assert found is None or [int(part) for part in text.split(".")] == [
        *(found.phase, found.attempt, found.sequence)
    ]


@given(st.none() | PLACES, PLACES, st.text())
def test_whatever_a_job_holds_is_one_event(before: Place | None, now: Place, text: str) -> None:
    job = {"result": text.encode("utf-8", "replace").decode()}
    lines = event(before, now, job).decode().split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["event", "id", "data", "", ""]
    assert json.loads(lines[2].removeprefix("data: ")) == job
