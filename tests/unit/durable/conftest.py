"""The world of the durable engine's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.durable.durable_world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "durable.db")
    await made.start()
    yield made
    await made.stop()
