"""The worlds of the durable engines' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from tests.unit.durable.durable_world import World


def make_world(folder: Path, engine: str) -> World:
    """Return a world whose engine is "local" or "azure-storage"."""
    if engine == "local":
        return World(folder / "durable.db")
    return World(
        folder / "task-hub.db",
        storage=AzureStorageOptions(folder / "task-hub.db", visibility_timeout_seconds=0.3),
    )


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
