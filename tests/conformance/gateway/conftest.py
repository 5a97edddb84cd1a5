"""A local blob storage for the tests of the gateway's services."""

from collections.abc import Iterator

import pytest

from tests.conformance.gateway.emulated_services import running
from tests.ports import free_port


@pytest.fixture(scope="module")
def blob_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with running("emulator.blobs", port, "--data", str(tmp_path_factory.mktemp("blobs"))):
        yield port
