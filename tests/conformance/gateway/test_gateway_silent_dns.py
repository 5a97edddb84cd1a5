"""Test the gateway and a real blob storage while DNS does not answer for the URLs of inputs."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contract.guard import Resolver
from contract.settings import AzureEndpoint
from gateway.rates import Rate
from gateway.storage.azure import AzurePayloads, PayloadContainer
from tests.conformance.gateway.emulated_services import running, storage
from tests.ports import free_port
from tests.unit.gateway.conftest import open_gateway

JOBS = "/v1/models/noop/jobs"
ASYNC = {"prefer": "respond-async"}


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[AzureEndpoint]:
    """Yield a blob storage whose URL contains the host name localhost.

    So each new connection to the blob storage needs a look-up of this name.
    """
    port = free_port()
    with running("emulator.blobs", port, "--data", str(tmp_path)):
        text = storage(port).connection_string or ""
        yield AzureEndpoint(text.replace("127.0.0.1", "localhost"))


async def test_gateway_is_ready_and_stores_inputs(blobs: AzureEndpoint) -> None:
    answered = threading.Event()

    def look_up(host: str, port: int) -> Sequence[str]:
        answered.wait(30)
        return []

    container = PayloadContainer(blobs)
    async with open_gateway(
        resolver=Resolver(look_up),
        payloads=AzurePayloads(container),
        url_input_rate=Rate(1000, 1),
    ) as gateway:
        # Submit 40 URLs, half of them with the same host name.
        names = [f"{number}.test" if number % 2 else "test" for number in range(40)]
        attack = [
            asyncio.create_task(
                gateway.http.post(JOBS, json={"input": {"url": f"https://{name}/"}}, headers=ASYNC)
            )
            for name in names
        ]
        await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
        ready = await gateway.http.get("/v1/health/ready")
        stored = await gateway.http.post(JOBS, content=b"x" * 100_000, headers=ASYNC)
        assert not all(each.done() for each in attack), "the look-ups ended first"
        assert (ready.status_code, stored.status_code) == (200, 202)
        answered.set()
        answers = [await each for each in attack]
    await container.close()
    assert {each.status_code for each in answers} == {422, 429}
