"""The unmodified package `openai` as a client of the gateway in memory."""

import httpx2
from openai import AsyncOpenAI

from tests.unit.gateway.api_keys import KEYS
from tests.unit.gateway.conftest import RunningGateway


def client_of(gateway: RunningGateway, name: str | None = None) -> AsyncOpenAI:
    """Return a client that checks each answer by its types. It sends the key of this name."""
    return AsyncOpenAI(
        base_url=f"{gateway.http.base_url}/openai/v1",
        api_key=KEYS[name][0] if name else "unused",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway.app)),
        max_retries=0,
        _strict_response_validation=True,
    )
