"""The stores of the tests, which are started once."""

import os
from collections.abc import Iterator

import pytest

from contract.settings import AzureEndpoint, S3Endpoint
from tests.conformance.objects.object_servers import CREDENTIALS, running_azure, running_s3


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[S3Endpoint]:
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    with running_s3() as endpoint:
        yield endpoint
    for name in CREDENTIALS:
        os.environ.pop(name)
        if name in before:
            os.environ[name] = before[name]


@pytest.fixture(scope="session")
def azure_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureEndpoint]:
    with running_azure(str(tmp_path_factory.mktemp("blobs"))) as endpoint:
        yield endpoint


@pytest.fixture(params=["azure", "s3"])
def endpoint(request: pytest.FixtureRequest) -> AzureEndpoint | S3Endpoint:
    found: AzureEndpoint | S3Endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    return found
