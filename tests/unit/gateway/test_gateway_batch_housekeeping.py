"""Test what follows a batch: its webhook, the restart of a lost one, and its deletion."""

import json
from datetime import timedelta
from typing import Any

import pytest

from contract.messages import format_time
from contract.names import ORCHESTRATOR_BATCH, batch_instance
from gateway import housekeeping
from gateway.batches.ids import line_id, new_batch_id
from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.store import input_blob
from gateway.durable import RuntimeStatus
from gateway.housekeeping import LONGEST_BATCH, STARTS_WITHIN, STUCK_AFTER, restart_batches
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.webhook_delivery import HOOKS, URL, deliver, receiver


async def create(gateway: RunningGateway, **members: Any) -> BatchSpec:
    """Store a batch that has no orchestration yet."""
    now = gateway.clock()
    batch_id = new_batch_id(now)
    deadline = format_time(now + LONGEST_BATCH)
    spec = BatchSpec(batch_id, "", "noop", format_time(now), deadline, input_blob(batch_id))
    for name, value in members.items():
        object.__setattr__(spec, name, value)
    await gateway.services.batch_store.create(spec)
    await gateway.services.batch_store.list_for_owner(spec)
    return spec


async def end(gateway: RunningGateway, spec: BatchSpec) -> None:
    state = BatchState(BatchStatus.SUCCEEDED, [2], succeeded=2)
    await gateway.services.batch_store.write_state(spec.id, state, None)


async def restart(gateway: RunningGateway) -> int:
    store = gateway.services.batch_store
    return await restart_batches(gateway.durable, store, gateway.clock())


class TestRestart:
    async def test_lost_orchestration_is_started(self, gateway: RunningGateway) -> None:
        spec = await create(gateway)
        assert await restart(gateway) == 0, "the request may still start it"
        gateway.clock.now += STARTS_WITHIN + timedelta(seconds=1)
        assert await restart(gateway) == 1
        assert gateway.durable.runs[batch_instance(spec.id)].input == spec.id
        assert await restart(gateway) == 0

    async def test_failed_orchestration_is_started(self, gateway: RunningGateway) -> None:
        spec = await create(gateway)
        instance = batch_instance(spec.id)
        await gateway.durable.start(instance, spec.id, ORCHESTRATOR_BATCH)
        gateway.durable.runs[instance].status = RuntimeStatus.FAILED
        gateway.clock.now += timedelta(hours=1)
        assert await restart(gateway) == 1
        assert gateway.durable.runs[instance].status is RuntimeStatus.RUNNING

    async def test_ended_batch_stays_ended(self, gateway: RunningGateway) -> None:
        await end(gateway, await create(gateway))
        gateway.clock.now += timedelta(hours=1)
        assert await restart(gateway) == 0

    async def test_stuck_orchestration_is_started_again(self, gateway: RunningGateway) -> None:
        spec = await create(gateway)
        instance = batch_instance(spec.id)
        await gateway.durable.start(instance, spec.id, ORCHESTRATOR_BATCH)
        gateway.durable.updated_at[instance] = gateway.clock()
        gateway.clock.now += STUCK_AFTER + timedelta(seconds=1)
        assert await restart(gateway) == 1
        assert gateway.durable.runs[instance].status is RuntimeStatus.TERMINATED
        assert await restart(gateway) == 1
        assert gateway.durable.runs[instance].status is RuntimeStatus.RUNNING


class TestDeletion:
    async def test_batch_lives_until_its_retention_ends(self, gateway: RunningGateway) -> None:
        spec = await create(gateway)
        await end(gateway, spec)
        result = f"results/{line_id(spec.id, 1)}/{'0' * 32}"
        gateway.blobs.put(result, b"x")
        kept = LONGEST_BATCH + timedelta(hours=72)
        gateway.clock.now += kept
        await housekeeping.run(gateway.durable, gateway.services)
        assert result in gateway.payloads.blobs
        assert await gateway.services.batch_store.ids("") == [spec.id]
        gateway.clock.now += timedelta(hours=2)
        await housekeeping.run(gateway.durable, gateway.services)
        left = [name for name in gateway.payloads.blobs if spec.id[:-4] in name]
        assert not left

    async def test_lines_do_not_hide_the_results_of_jobs(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "MAX_LISTED", 10)
        spec = await create(gateway)
        for number in range(1, 20):
            gateway.blobs.put(f"results/{line_id(spec.id, number)}/{'0' * 32}", b"x")
        gateway.clock.now += timedelta(seconds=1)
        job = f"results/{await gateway.accept()}/{'0' * 32}"
        gateway.blobs.put(job, b"x")
        gateway.clock.now += timedelta(hours=75)
        await housekeeping.run(gateway.durable, gateway.services)
        assert job not in gateway.payloads.blobs
        assert any(name.startswith("results/") for name in gateway.payloads.blobs)


class TestWebhook:
    async def test_ended_batch_is_posted(self) -> None:
        async with open_gateway(**HOOKS) as gateway:
            spec = await create(gateway, webhook_url=URL)
            assert (await deliver(gateway, spec.id))["error"] == "not-final"
            await end(gateway, spec)
            assert (await deliver(gateway, spec.id))["state"] == "delivered"
            ((url, headers, body),) = receiver(gateway).posts
            assert (url, headers["webhook-id"]) == (URL, f"batch_{spec.id}")
            batch = await gateway.get(f"/v1/batches/{spec.id}")
            assert json.loads(body) == batch

    async def test_deleted_batch_ends_the_delivery(self) -> None:
        async with open_gateway(**HOOKS) as gateway:
            outcome = await deliver(gateway, new_batch_id(gateway.clock()))
            assert (outcome["error"], outcome["state"]) == ("unknown-job", "failed")
