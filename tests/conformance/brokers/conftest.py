"""The brokers on which the tests of the ports run: real servers, each with queues of its own."""

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.catalogue import Catalogue
from contract.queues import config
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from gateway.brokers.port import Queues
from tests import connections
from tests.broker_servers import (
    BrokerServer,
    RabbitServer,
    running_rabbitmq,
    running_redis_server,
)
from tests.ports import free_port


@dataclass(frozen=True, slots=True)
class GatewayBroker:
    """A running broker whose queues are empty, with the gateway's adapter for it."""

    server: BrokerServer
    make: Callable[[], Queues]


@pytest.fixture(scope="module")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(params=["servicebus", "rabbitmq", "redis"])
def gateway_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayBroker]:
    catalogue = Catalogue.load()
    if request.param == "servicebus":
        with running_service_bus(tmp_path, catalogue) as (server, endpoint, admin_url):
            yield GatewayBroker(server, lambda: make_queues(endpoint, catalogue, admin_url))
    elif request.param == "rabbitmq":
        rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
        endpoint = BrokerEndpoint(BrokerKind.RABBITMQ, url=rabbit.add_host(secrets.token_hex(4)))
        yield GatewayBroker(rabbit, lambda: make_queues(endpoint, catalogue, None))
    else:
        with running_redis_server(tmp_path / "redis") as server:
            endpoint = BrokerEndpoint(BrokerKind.REDIS, url=server.url)
            yield GatewayBroker(server, lambda: make_queues(endpoint, catalogue, None))


@pytest.fixture
async def queues(gateway_broker: GatewayBroker) -> AsyncIterator[Queues]:
    made = gateway_broker.make()
    yield made
    await made.close()


@contextmanager
def running_service_bus(
    folder: Path, catalogue: Catalogue
) -> Iterator[tuple[BrokerServer, BrokerEndpoint, str]]:
    port, admin_port = free_port(), free_port()
    configuration = folder / "config.json"
    configuration.write_text(json.dumps(config(catalogue)), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "emulator.servicebus", "--port", str(port)),
        *("--admin-port", str(admin_port), "--config", str(configuration)),
        *("--data", str(folder / "data"), "--log-level", "warning"),
    ]
    server = BrokerServer("", port, command, os.environ, folder / "output.log")
    server.start()
    endpoint = AzureEndpoint(connections.service_bus(port))
    try:
        yield (
            server,
            BrokerEndpoint(BrokerKind.SERVICE_BUS, service_bus=endpoint),
            f"http://127.0.0.1:{admin_port}",
        )
    finally:
        server.kill()
