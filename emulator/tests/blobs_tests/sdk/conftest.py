"""Run each test with Microsoft's blocking and asynchronous clients, on the emulator and Azurite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from blobs_tests.sdk.blob_servers import (
    ACCOUNT,
    KEY,
    Server,
    azurite_program,
    run_azurite,
    run_emulator,
)
from blobs_tests.sdk.both_clients import connect


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--azurite",
        metavar="DIR",
        type=Path,
        help="also run the Blob tests on Azurite, which must be installed in DIR",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "azurite_differs(why): Azurite does not behave as Azure's documentation says"
    )


@pytest.fixture(autouse=True)
def expect_known_differences(request: pytest.FixtureRequest) -> None:
    """Expect that a test with the marker `azurite_differs` fails on Azurite."""
    marker = request.node.get_closest_marker("azurite_differs")
    if marker and request.getfixturevalue("server").kind == "azurite":
        request.applymarker(pytest.mark.xfail(reason=marker.args[0], strict=True))


@pytest.fixture(scope="session", params=["emulator", "azurite"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "emulator":
        with run_emulator(tmp_path_factory.mktemp("blobs")) as running:
            yield running
        return
    folder = request.config.getoption("--azurite", default=None)
    if folder is None:
        pytest.skip("needs Azurite: use the option --azurite DIR")
    if not azurite_program(folder).exists():
        pytest.fail(f"Azurite is missing: run `python -m blobs_tests.sdk.blob_servers {folder}`")
    with run_azurite(folder, tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(params=["sync", "aio"])
def sdk(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
async def service(server: Server, sdk: str) -> AsyncIterator[Any]:
    """Yield a client that has the account's key and that uploads content over 1 MiB in blocks."""
    async with connect(
        sdk,
        server.url,
        {"account_name": ACCOUNT, "account_key": KEY},
        max_single_put_size=1024 * 1024,
        max_block_size=512 * 1024,
    ) as client:
        yield client


@pytest.fixture
async def container(service: Any) -> AsyncIterator[Any]:
    """Create a container, and yield a client for the container."""
    client = await service.create_container(f"test-{uuid4().hex}")
    yield client
    await client.delete_container()
