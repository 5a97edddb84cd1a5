"""Test which jobs wait in the room of their model, and which go to its queue."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from contract.catalogue import ModelEntry, Priority
from contract.queues import MESSAGES_PER_WORKER
from gateway.keys import owner_of
from gateway.shares.room_queue import RoomQueue
from gateway.shares.window import COLD_WORKERS
from tests.unit.gateway.api_keys import SETTING, ask, bearer
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.workers import heard


@dataclass(frozen=True, slots=True)
class FaultyQueue(RoomQueue):
    """A queue whose window cannot be computed as often as `faults` has elements."""

    faults: list[int]

    async def window(self, priority: Priority, ends_a_second: float | None = None) -> int:
        if self.faults and ends_a_second is not None:
            self.faults.pop()
            raise RuntimeError("a defect")
        return await RoomQueue.window(self, priority, ends_a_second)


WINDOW = COLD_WORKERS * MESSAGES_PER_WORKER
"""The window of noop while no worker is ready."""


@pytest.fixture
async def shared() -> AsyncIterator[RunningGateway]:
    async with open_gateway(api_keys=SETTING) as opened:
        yield opened
        await opened.services.watches.close()


async def submit(gateway: RunningGateway, name: str, **query: str) -> dict[str, object]:
    headers = {**bearer(name), "content-type": "application/octet-stream"}
    gateway.clock.now += timedelta(milliseconds=1)
    answer = await gateway.submit(content=b"x", headers=headers, params=query)
    assert answer.status_code == 202, answer.text
    job: dict[str, object] = (await ask(gateway, name, answer.headers["location"])).json()
    return job


async def flood(gateway: RunningGateway, count: int, **query: str) -> list[dict[str, object]]:
    return [await submit(gateway, "a", **query) for _ in range(count)]


def phases(jobs: list[dict[str, object]]) -> list[object]:
    return [job["queue"]["phase"] for job in jobs]  # type: ignore[index]


class TestFlood:
    async def test_fills_the_window_and_then_the_room(self, shared: RunningGateway) -> None:
        jobs = await flood(shared, WINDOW + 3)
        assert len(shared.queues.sent) == WINDOW
        assert phases(jobs) == ["queued"] * WINDOW + ["share"] * 3

    async def test_place_is_among_the_tenants_jobs(self, shared: RunningGateway) -> None:
        held = (await flood(shared, WINDOW + 3))[WINDOW:]
        shown = [(await ask(shared, "a", f"/v1/jobs/{job['id']}")).json() for job in held]
        assert [job["queue"]["position"] for job in shown] == [1, 2, 3]

    async def test_job_of_another_tenant_passes(self, shared: RunningGateway) -> None:
        await flood(shared, WINDOW + 3)
        job = await submit(shared, "b")
        assert job["queue"]["phase"] != "share"  # type: ignore[index]
        assert shared.queues.request().job_id == job["id"]

    async def test_end_of_a_job_lets_the_next_in(self, shared: RunningGateway) -> None:
        jobs = await flood(shared, WINDOW + 3)
        await shared.reply(shared.queues.request(0))
        async with asyncio.timeout(20):
            await shared.queues.wait_for(WINDOW + 1)
        assert shared.queues.request().job_id == jobs[WINDOW]["id"]

    async def test_cancelled_job_never_reaches_the_queue(self, shared: RunningGateway) -> None:
        held = (await flood(shared, WINDOW + 2))[WINDOW:]
        gone = await ask(shared, "a", f"/v1/jobs/{held[0]['id']}", "DELETE")
        assert gone.status_code in {200, 202}
        await shared.reply(shared.queues.request(0))
        async with asyncio.timeout(20):
            await shared.queues.wait_for(WINDOW + 1)
        assert shared.queues.request().job_id == held[1]["id"]

    async def test_refuses_jobs_that_would_expire_held(self, shared: RunningGateway) -> None:
        heard(shared, 1.0)
        await flood(shared, WINDOW + 80, deadline_seconds="3600")
        watch = shared.services.watches.of(shared.services.catalogue.model("noop"))
        async with asyncio.timeout(20):
            while watch.account.held_count < 80:  # noqa: ASYNC110 - reading sets no event
                await asyncio.sleep(0)
        headers = {"content-type": "application/octet-stream"}
        for name, status in (("a", 503), ("b", 202)):
            answer = await shared.submit(
                content=b"x", headers=headers | bearer(name), params={"deadline_seconds": 75}
            )
            assert answer.status_code == status, answer.text

    async def test_unreadable_state_breaks_no_request(self, shared: RunningGateway) -> None:
        shared.blobs.put("shares/noop/state", b"{}")
        await flood(shared, WINDOW + 1)
        await submit(shared, "b")

    async def test_defect_does_not_end_the_leader(self, shared: RunningGateway) -> None:
        watches = shared.services.watches
        make_queue = watches.make_queue

        def make_faulty(model: ModelEntry) -> RoomQueue:
            made = make_queue(model)
            parts = made.estimates, made.states, made.tracing, made.clock
            return FaultyQueue(made.model, made.queues, *parts, faults=[1, 2, 3])

        watches.make_queue = make_faulty
        jobs = await flood(shared, WINDOW + 1)
        await shared.reply(shared.queues.request(0))
        async with asyncio.timeout(20):
            await shared.queues.wait_for(WINDOW + 1)
        assert shared.queues.request().job_id == jobs[WINDOW]["id"]

    async def test_cancelled_job_in_flight_keeps_its_charge(self, shared: RunningGateway) -> None:
        jobs = await flood(shared, WINDOW + 2)
        await shared.reply(shared.queues.request(0))
        async with asyncio.timeout(20):
            await shared.queues.wait_for(WINDOW + 1)
        watch = shared.services.watches.of(shared.services.catalogue.model("noop"))
        owner, before = owner_of("acme"), watch.account.lead(owner_of("acme"))
        await ask(shared, "a", f"/v1/jobs/{jobs[WINDOW]['id']}", "DELETE")
        assert watch.account.in_flight(owner) == 0
        assert watch.account.lead(owner) == before > 0

    async def test_job_whose_message_is_gone_is_not_sent(self, shared: RunningGateway) -> None:
        await flood(shared, WINDOW + 2)
        for name in [each for each in shared.payloads.blobs if "/bodies/" in each]:
            del shared.payloads.blobs[name]
        await shared.reply(shared.queues.request(0))
        watch = shared.services.watches.of(shared.services.catalogue.model("noop"))
        async with asyncio.timeout(20):
            while watch.leader is None or watch.leader.account.held_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(shared.queues.sent) == WINDOW


class TestQueue:
    async def test_below_the_window_uses_no_storage(self, shared: RunningGateway) -> None:
        await flood(shared, WINDOW)
        assert not [name for name in shared.payloads.blobs if name.startswith("shares/")]

    async def test_of_low_priority_has_a_window_of_its_own(self, shared: RunningGateway) -> None:
        await flood(shared, WINDOW + 1)
        await flood(shared, 5, priority=Priority.LOW.value)
        assert [queue for queue, _ in shared.queues.sent[WINDOW:]] == ["noop-low"] * 5

    async def test_gets_the_job_if_the_room_cannot_hold_it(self, shared: RunningGateway) -> None:
        await flood(shared, WINDOW)
        shared.payloads.is_down = True
        headers = {**bearer("a"), "content-type": "application/octet-stream"}
        await shared.submit(content=b"x", headers=headers)
        assert len(shared.queues.sent) == WINDOW + 1


async def test_without_shares_nothing_is_held() -> None:
    async with open_gateway(api_keys=SETTING, has_shares=False) as gateway:
        assert "share" not in phases(await flood(gateway, WINDOW + 3))
        assert len(gateway.queues.sent) == WINDOW + 3
