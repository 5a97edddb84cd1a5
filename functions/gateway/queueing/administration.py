"""The queues' counts, from Service Bus's management API.

In Azure that needs the Manage right on the queues, or the role Azure Service Bus Data Owner. The
emulators serve it over plain http on a port of its own, while the client of 7.15.0 dials https
whatever the connection string says: SERVICE_BUS_ADMIN_URL names the address to ask instead.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import AioHttpTransport
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from gateway.errors import Unavailable
from gateway.settings import Endpoint

_TIMEOUT_SECONDS: Final = 2
_ENDPOINT: Final = re.compile(r"(?<![^;])Endpoint=sb://[^;]*", re.IGNORECASE)
_EMULATOR: Final = re.compile(r"(?<![^;])UseDevelopmentEmulator=true", re.IGNORECASE)


class Administration:
    """Looks at the queues of one namespace."""

    def __init__(self, endpoint: Endpoint, url: str | None = None) -> None:
        """`url` is where the management API is, if not where the namespace is."""
        self._endpoint = endpoint
        self._url = url
        self._client: ServiceBusAdministrationClient | None = None

    async def length(self, queue: str) -> int:
        """How many active messages the queue has; raises Unavailable."""
        try:
            found = await self._connected().get_queue_runtime_properties(queue)
            count = found.active_message_count
        # The last three are what its XML reader makes of an answer that is none.
        except (AzureError, OSError, ValueError, SyntaxError, AttributeError) as error:
            raise Unavailable("queue", f"count failed: {error!r}") from error
        if count is None:
            raise Unavailable("queue", "count failed: the answer has none")
        return count

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> ServiceBusAdministrationClient:
        if self._client is None:
            self._client = self._made()
        return self._client

    def _made(self) -> ServiceBusAdministrationClient:
        options: dict[str, Any] = {
            "retry_total": 0,
            "connection_timeout": _TIMEOUT_SECONDS,
            "read_timeout": _TIMEOUT_SECONDS,
        }
        given = self._endpoint.connection_string
        if given is None:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow, and rare

            return ServiceBusAdministrationClient(
                self._endpoint.address or "", DefaultAzureCredential(), **options
            )
        if self._url is None:
            if _EMULATOR.search(given):
                raise Unavailable("queue", "an emulator needs SERVICE_BUS_ADMIN_URL")
            return ServiceBusAdministrationClient.from_connection_string(given, **options)
        url = urlsplit(self._url)
        if url.scheme == "http":
            options["transport"] = _PlainTransport(**options)
        elsewhere = _ENDPOINT.sub(lambda _: f"Endpoint=sb://{url.netloc}", given)
        return ServiceBusAdministrationClient.from_connection_string(elsewhere, **options)


class _PlainTransport(AioHttpTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """Speaks http where the client says https."""

    async def send(self, request: Any, **config: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)
