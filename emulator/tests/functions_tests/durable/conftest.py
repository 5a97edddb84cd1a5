"""Fixtures that run a test with each durable engine, or only with the default engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from functions_tests.durable.durable_host import EngineHost, make_host


@pytest.fixture(params=["local", "azure-storage"])
async def host(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[EngineHost]:
    """Yield a running host. A test with this fixture runs once for each durable engine."""
    made = make_host(tmp_path, request.param)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def local_host(tmp_path: Path) -> AsyncIterator[EngineHost]:
    """Yield a running host with the default engine, to test what only this engine can do."""
    made = make_host(tmp_path, "local")
    await made.start()
    yield made
    await made.stop()
