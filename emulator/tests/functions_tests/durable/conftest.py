"""The worlds of the durable engines' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from functions_tests.durable.durable_host import EngineHost, make_host


@pytest.fixture(params=["local", "azure-storage"])
async def host(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[EngineHost]:
    """A world with each of the engines."""
    made = make_host(tmp_path, request.param)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def local_host(tmp_path: Path) -> AsyncIterator[EngineHost]:
    """A world with the default engine, for what that one alone does."""
    made = make_host(tmp_path, "local")
    await made.start()
    yield made
    await made.stop()
