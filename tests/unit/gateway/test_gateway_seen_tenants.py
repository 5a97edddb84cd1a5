"""Test what operators see of tenants: in the overview, in the metrics and in the series."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from contract.catalogue import Priority
from contract.heartbeats import ModelHeartbeat, ModelState
from gateway.keys import owner_of
from gateway.operations.tenants import MAX_SHOWN
from gateway.shares.account import Account
from gateway.shares.room import JobInFlight, Room, RoomState
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.workers import beat

NORMAL = Priority.NORMAL
SECONDS = {"acme": 30.0, "zoo": 10.0}


async def fill_room(gateway: RunningGateway, held: Mapping[str, int], in_flight: str = "") -> None:
    """Write a room with held jobs, and one job in flight of each tenant in `in_flight`."""
    account, now = Account(), gateway.clock()
    for tenant, count in held.items():
        for _ in range(count):
            account.hold(owner_of(tenant), NORMAL)
    sent = {}
    for number, tenant in enumerate(in_flight.split()):
        owner = owner_of(tenant) if tenant != "?" else ""
        account.charge(owner)
        sent[str(number)] = JobInFlight(owner, NORMAL, 0.01, now.timestamp() + number)
    oldest = now - timedelta(seconds=90) if account.held_count else None
    state = RoomState("me", 1, True, {NORMAL: 4}, account.to_json(), sent, oldest=oldest)
    room = Room("noop", gateway.services.blobs, gateway.clock)
    assert await room.write_state(state, None) is not None


async def use(gateway: RunningGateway, used: Mapping[str, float] = SECONDS) -> None:
    usage = gateway.services.limits.usage
    for tenant, seconds in used.items():
        usage.note(tenant)
        usage.record(owner_of(tenant), "noop", seconds)


async def overview(gateway: RunningGateway) -> Any:
    return await gateway.get("/v1/ops/overview")


class TestOverview:
    async def test_tenants_have_jobs_and_usage(self, gateway: RunningGateway) -> None:
        busy = ModelHeartbeat("noop", ModelState.LOADED, in_flight=2)
        beat(gateway, models=(busy,))
        await use(gateway)
        await gateway.services.limits.tenants.change("acme", {"weight": 3}, "ops")
        await fill_room(gateway, {"acme": 5, "zoo": 1}, "acme zoo ? acme")
        shown = await overview(gateway)
        acme, zoo = shown["tenants"]
        jobs = {"share": 0.75, "waiting": 6, "held": 5, "running": 1}
        assert acme["models"]["noop"] == {**jobs, "gpu_seconds_hour": 30, "gpu_seconds_day": 30}
        assert {name: acme[name] for name in jobs} == jobs
        assert (zoo["tenant"], zoo["waiting"], zoo["held"], zoo["running"]) == ("zoo", 1, 1, 1)
        assert shown["tenant_count"] == 2

    async def test_short_queue_has_usage_alone(self, gateway: RunningGateway) -> None:
        await use(gateway)
        acme, _ = (await overview(gateway))["tenants"]
        jobs = ("share", "waiting", "held", "running")
        assert [acme[name] for name in jobs] == [None, None, 0, None]

    async def test_held_jobs_wait(self, gateway: RunningGateway) -> None:
        gateway.queues.lengths = {"noop": 4}
        await fill_room(gateway, {"acme": 5, "zoo": 1})
        shown = await overview(gateway)
        [queue] = [each for each in shown["queues"] if each["model"] == "noop"]
        assert (queue["waiting"]["normal"], queue["waiting"]["held"]) == (4, 6)
        assert queue["oldest_age_seconds"] == 90
        texts = [each["text"] for each in shown["verdicts"]]
        assert "noop: 6 of the jobs wait for the shares of their tenants." in texts
        assert texts[0] == "noop: 10 jobs wait, no worker seen."
        assert gateway.services.counters.totals["noop"].waiting == 10

    async def test_timer_counts_held_jobs(self, gateway: RunningGateway) -> None:
        gateway.queues.lengths = {"noop": 4}
        await fill_room(gateway, {"acme": 5})
        await gateway.services.operations.record_waiting({"noop": gateway.clock()})
        assert gateway.services.counters.totals["noop"].waiting == 9

    async def test_settings_alone_are_not_shown(self, gateway: RunningGateway) -> None:
        await gateway.services.limits.tenants.change("idle", {"weight": 2}, "ops")
        assert (await overview(gateway))["tenants"] == []
        [idle] = await gateway.services.operations.tenants()
        assert (idle.name, idle.settings.weight, idle.given) == ("idle", 2, {"weight": 2})

    async def test_unknown_owner_is_its_digest(self, gateway: RunningGateway) -> None:
        await fill_room(gateway, {"acme": 1})
        [tenant] = (await overview(gateway))["tenants"]
        assert tenant["tenant"] == owner_of("acme")


class TestMetrics:
    @staticmethod
    async def read(gateway: RunningGateway) -> dict[tuple[str, ...], float]:
        text = (await gateway.http.get("/metrics")).text
        return {
            (
                sample.name.removeprefix("loosely_gateway_"),
                *(sample.labels[name] for name in sorted(sample.labels, reverse=True)),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def test_each_tenant_has_figures(self, gateway: RunningGateway) -> None:
        beat(gateway)
        await use(gateway, {"": 2.0})
        await fill_room(gateway, {"": 3}, "? ")
        found = await self.read(gateway)
        states = ("held", "queued", "running")
        assert [found["tenant_jobs", "~", state] for state in states] == [3, 0, 0]
        assert found["tenant_gpu_seconds", "~", "hour"] == 2
        assert found["tenant_gpu_seconds", "~", "day"] == 2
        assert found["tenant_share_ratio", "~"] == 1
        assert found["queue_messages", "held", "noop"] == 3
        assert found["queue_oldest_age_seconds", "noop"] == 90

    async def test_number_of_labels_is_limited(self, gateway: RunningGateway) -> None:
        tenants = {f"t{number}": float(number) for number in range(1, 501)}
        await use(gateway, {**tenants, "other": 0.5})
        found = await self.read(gateway)
        shown = {key[1]: value for key, value in found.items() if key[0] == "tenant_gpu_seconds"}
        assert len(shown) == MAX_SHOWN + 1
        assert shown["t500"] == 500
        assert "t450" not in shown
        assert shown["other"] == sum(range(1, 451)) + 0.5
