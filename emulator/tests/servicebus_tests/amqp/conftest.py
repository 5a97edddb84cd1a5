from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.namespace import Namespace
from servicebus_tests.amqp.amqp_peer import Peer, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Namespace, Broker]]:
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def broker(served: tuple[Namespace, Broker]) -> Broker:
    return served[1]


@pytest.fixture
async def fresh(served: tuple[Namespace, Broker]) -> Peer:
    """Return a client that has connected to the emulator and has not sent any bytes."""
    return Peer(served[0])


@pytest.fixture
async def peer(fresh: Peer) -> Peer:
    """Return a client that has opened its AMQP connection and begun a session."""
    await fresh.open()
    return fresh
