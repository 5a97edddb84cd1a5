"""The brokers on which the tests of the ports run: real servers, each with queues of its own."""

import gc
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.catalogue import Catalogue
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from gateway.brokers.port import Queues
from tests.broker_servers import (
    BrokerServer,
    RabbitServer,
    running_rabbitmq,
    running_redis_server,
    running_service_bus_server,
)
from tests.conformance.brokers.broker_cases import BrokerCase, QueueOfTest, running_case


@pytest.fixture(autouse=True)
def _freed_connections() -> Iterator[None]:
    """Free what the clients leave open when a server is killed, before another test reports it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
        with running_service_bus_server(tmp_path, catalogue) as service_bus:
            endpoint = BrokerEndpoint(BrokerKind.SERVICE_BUS, AzureEndpoint(service_bus.url))
            admin_url = service_bus.admin_url
            yield GatewayBroker(service_bus, lambda: make_queues(endpoint, catalogue, admin_url))
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


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            kind,
            id=kind.value,
            # The clients leave sockets open when their server is killed.
            marks=pytest.mark.filterwarnings("ignore::ResourceWarning"),
        )
        for kind in BrokerKind
    ],
)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerCase]:
    with running_case(request.param, tmp_path_factory.mktemp(str(request.param))) as running:
        yield running


@pytest.fixture
def queue(case: BrokerCase) -> Iterator[QueueOfTest]:
    tested = case.new_queue()
    yield tested
    tested.close()
