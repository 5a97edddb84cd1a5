"""The worlds of the durable engines' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from functions_tests.durable.durable_host import World, make_world


@pytest.fixture(params=["local", "azure-storage"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world with each of the engines."""
    made = make_world(tmp_path, request.param)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def local_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world with the default engine, for what that one alone does."""
    made = make_world(tmp_path, "local")
    await made.start()
    yield made
    await made.stop()
