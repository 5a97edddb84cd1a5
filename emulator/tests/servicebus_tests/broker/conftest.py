from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicebus_tests.broker.broker_harness import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World.open(tmp_path)
    yield world
    await world.broker.close()
