"""A fixture that runs one Service Bus emulator for all tests."""

from collections.abc import Iterator

import pytest

from servicebus_tests.sdk.servicebus_process import Server, run_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("servicebus")) as running:
        yield running
