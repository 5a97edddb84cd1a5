"""A process that holds jobs in a waiting room: `python -m ... BLOBS SERVICE_BUS OWNER COUNT`.

It prints the id of each job that is held, and is killed by the test.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from contract.catalogue import Catalogue, Priority
from contract.guard import Resolver
from contract.settings import BrokerEndpoint, BrokerKind
from gateway.brokers.servicebus import ServiceBusQueues
from gateway.clock import utc_now
from gateway.durable import Durable
from gateway.queues.model_states import ModelStates
from gateway.queues.workers import WorkerHeartbeats
from gateway.reply_tokens import ReplyTokens
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.shares.room import Entry
from gateway.shares.room_queue import RoomQueue
from gateway.shares.tenants import TenantStore
from gateway.shares.watch import JobEnds, RoomWatches
from gateway.storage.azure import AzureBlobs, AzureLinks, AzurePayloads, PayloadContainer
from gateway.webhooks.sender import WebhookSender
from tests.conformance.gateway.emulated_services import service_bus, storage

MODEL = "noop"
UNUSED: Any = None
NO_DURABLE: Durable = UNUSED


@asynccontextmanager
async def open_rooms(blob_port: int, bus_port: int, admin_port: int) -> AsyncIterator[RoomWatches]:
    settings = GatewaySettings(
        broker=BrokerEndpoint(BrokerKind.SERVICE_BUS, service_bus(bus_port)),
        payload_storage=storage(blob_port),
        gateway_base_url="http://127.0.0.1:1",
        reply_token_keys=(bytes(32),),
    )
    container = PayloadContainer(storage(blob_port))
    queues = ServiceBusQueues(service_bus(bus_port), f"http://127.0.0.1:{admin_port}")
    blobs, clock = AzureBlobs(container), utc_now
    services = Services(
        settings=settings,
        catalogue=Catalogue.load(),
        queues=queues,
        payloads=AzurePayloads(container),
        blobs=blobs,
        links=AzureLinks(container),
        tokens=ReplyTokens(settings.reply_token_keys, settings.gateway_base_url),
        webhooks=WebhookSender(settings.guard, Resolver()),
    )
    states = ModelStates(WorkerHeartbeats(blobs, clock, is_enabled=False), clock)
    estimates, tracing = services.estimates, services.tracing
    rooms = RoomWatches(
        services.catalogue,
        blobs,
        lambda model: RoomQueue(model, queues, estimates, states, tracing, clock),
        TenantStore(blobs, clock),
        JobEnds(services.jobs, services.outcomes),
        clock,
    )
    try:
        yield rooms
    finally:
        await rooms.close()
        await queues.close()
        await container.close()


async def hold(rooms: RoomWatches, job_id: str) -> None:
    now = utc_now()
    entry = Entry(job_id, job_id[0], Priority.NORMAL, now + timedelta(minutes=10), now)
    watch = rooms.of(rooms.catalogue.model(MODEL))
    await watch.hold(NO_DURABLE, entry, b'{"job": "%s"}' % job_id.encode())


async def hold_many(ports: list[int], owner: str, count: int) -> None:
    async with open_rooms(*ports) as rooms:

        async def hold_one(number: int) -> None:
            await hold(rooms, f"{owner}-{number}")
            print(f"{owner}-{number}", flush=True)  # noqa: T201 - the test reads it

        for start in range(0, count, 20):
            await asyncio.gather(*map(hold_one, range(start, start + 20)))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold_many([*map(int, sys.argv[1:4])], sys.argv[4], int(sys.argv[5])))
