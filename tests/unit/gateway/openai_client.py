"""The unmodified package `openai` as a client of the gateway in memory."""

from typing import Any

import httpx2
from openai import AsyncOpenAI

from tests.unit.gateway.api_keys import KEYS
from tests.unit.gateway.conftest import RunningGateway


def client_of(
    gateway: RunningGateway, name: str | None = None, *, is_strict: bool = True
) -> AsyncOpenAI:
    """Return a client that sends the key of this name. A strict one checks answers by its types."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gateway.app({**scope, "durable": gateway.durable}, receive, send)

    return AsyncOpenAI(
        base_url=f"{gateway.http.base_url}/openai/v1",
        api_key=KEYS[name][0] if name else "unused",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app)),
        max_retries=0,
        _strict_response_validation=is_strict,
    )
