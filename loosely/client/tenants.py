"""The operations on tenants: their shares, limits and usage. Changes need a key with ``admin``."""

from typing import Any, Final, TypedDict, Unpack

from loosely.client.resources import Tenant, TenantChange
from loosely.client.responses import read_as
from loosely.client.sending import RequestSender

_PATH: Final = ("admin", "tenants")
#: The tenant of a gateway without API keys, whose name is empty, in the URL's path.
_NO_NAME: Final = "~"


class ShareSettings(TypedDict, total=False):
    """The settings of a tenant. A limit that is ``None`` does not exist."""

    #: How large the tenant's share is beside those of others, from 0.01 to 1000.
    weight: float
    #: How many jobs may exist that have not ended.
    max_queued: int | None
    #: How many jobs may be in the queue of a model or at its workers.
    max_running: int | None
    #: How many seconds the jobs may use devices in a day of UTC.
    gpu_seconds_a_day: float | None


class AsyncTenants(RequestSender):
    """The operations on tenants. Each raises LooselyError if network or gateway fails.

    The tenant ``*`` has the settings that apply to all tenants without own ones. The tenant of a
    gateway without API keys has an empty name.
    """

    async def list(self) -> tuple[Tenant, ...]:
        """Return the tenants that have settings, or that had jobs in the last day."""
        response = await self._send(self._requests.build("GET", *_PATH), (200,))
        return read_as(response, Tenant.list_from_document, "a list of tenants")

    async def get(self, name: str) -> Tenant:
        """Return one tenant: its settings, its jobs and its seconds on devices."""
        return await self._request("GET", name)

    async def set(self, name: str, **settings: Unpack[ShareSettings]) -> Tenant:
        """Replace the settings of one tenant, and return the tenant.

        For each setting that is not given, the tenant has that of ``*``. The change applies within
        a few seconds.
        """
        return await self._request("PUT", name, dict(settings))

    async def reset(self, name: str) -> None:
        """Delete the settings of one tenant, so that those of ``*`` apply to it."""
        request = self._requests.build("DELETE", *_PATH, name or _NO_NAME)
        await self._send(request, (204,))

    async def audit(self, limit: int = 100) -> tuple[TenantChange, ...]:
        """Return the last changes of settings, the newest first."""
        params = {"limit": str(limit)}
        response = await self._send(
            self._requests.build("GET", *_PATH, "audit", params=params), (200,)
        )
        return read_as(response, TenantChange.list_from_document, "a list of changes")

    async def _request(
        self, method: str, name: str, document: dict[str, Any] | None = None
    ) -> Tenant:
        request = self._requests.build(method, *_PATH, name or _NO_NAME, document=document)
        return read_as(await self._send(request, (200,)), Tenant.from_document, "a tenant")
