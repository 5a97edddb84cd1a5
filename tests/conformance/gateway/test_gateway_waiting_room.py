"""Test the waiting room on our emulators: its leader is killed, and another process takes over."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus.aio import ServiceBusClient

from gateway.clock import utc_now
from gateway.jobs.lifecycle import OutcomeStore
from gateway.jobs.model import JobOutcome
from gateway.shares.watch import RoomWatches
from gateway.telemetry import JobCounters
from tests.conformance.gateway.emulated_services import ROOT, running_service_bus, service_bus
from tests.conformance.gateway.room_process import MODEL, NO_DURABLE, hold, open_rooms
from tests.ports import free_port

HELD = 300


@pytest.fixture(scope="module")
def ports(blob_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    port, admin_port = free_port(), free_port()
    with running_service_bus(port, tmp_path_factory.mktemp("bus"), admin_port):
        yield [blob_port, port, admin_port]


@contextlib.contextmanager
def holding(ports: list[int], owner: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds HELD jobs."""
    command = [sys.executable, "-m", "tests.conformance.gateway.room_process"]
    path = f"{ROOT}:{ROOT / 'functions'}"
    process = subprocess.Popen(
        [*command, *map(str, ports), owner, str(HELD)],
        cwd=Path(ROOT),
        env={"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def read_ids(process: subprocess.Popen[str], count: int) -> set[str]:
    assert process.stdout is not None
    lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(count)]
    return {line.strip() for line in lines}


async def run_jobs(ports: list[int], rooms: RoomWatches, wanted: set[str]) -> list[str]:
    """Receive jobs and end them, as a worker and its gateway do, until all wanted ones ran."""
    watch = rooms.of(rooms.catalogue.model(MODEL))
    outcomes = OutcomeStore(rooms.blobs, JobCounters(utc_now))
    ran: list[str] = []
    connection_string = service_bus(ports[1]).connection_string or ""
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(MODEL) as receiver,
    ):
        while not wanted <= set(ran):
            for message in await receiver.receive_messages(16, max_wait_time=1):
                await receiver.complete_message(message)
                job_id = str(message.message_id)
                ran.append(job_id)
                # An end that a killed or closed process has not saved is found by its outcome.
                await outcomes.record(job_id, JobOutcome.cancelled(utc_now()), None)
                watch.record_end(NO_DURABLE, job_id, job_id[0], 0.01)
    return ran


@pytest.mark.parametrize("acknowledged", [20, 160, HELD])
async def test_killed_leader_loses_and_doubles_no_job(ports: list[int], acknowledged: int) -> None:
    owner = f"k{acknowledged}"
    async with open_rooms(*ports) as rooms:
        with holding(ports, owner) as leader:
            wanted = await read_ids(leader, acknowledged)
        await rooms.open_used()
        async with asyncio.timeout(40):
            ran = await run_jobs(ports, rooms, wanted)
        assert len(ran) == len(set(ran))


async def test_two_processes_share_a_room(ports: list[int]) -> None:
    async with open_rooms(*ports) as rooms:
        with holding(ports, "two") as leader:
            wanted = await read_ids(leader, 40)
            for number in range(20):
                await hold(rooms, f"own-{number}")
            wanted |= await read_ids(leader, HELD - 40)
            async with asyncio.timeout(40):
                ran = await run_jobs(ports, rooms, wanted | {f"own-{n}" for n in range(20)})
        assert len(ran) == len(set(ran))
        last = max(ran.index(f"own-{number}") for number in range(20))
        assert last < HELD / 2
