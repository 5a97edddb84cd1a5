"""The durable engine as the Functions host uses it: a database, an HTTP API, a client binding."""

import secrets
from pathlib import Path

from emulator.functions.clock import Clock
from emulator.functions.durable.azure_storage.engine import AzureStorageEngine
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.durable.core import Engine
from emulator.functions.durable.links import Links
from emulator.functions.durable.management import ManagementApi
from emulator.functions.durable.operations import Operations
from emulator.functions.durable.store import Store
from emulator.functions.durable.wire import AsgiApp
from emulator.functions.hostfile import DurableOptions
from emulator.functions.runner import FunctionRunner


class DurableEngine:
    """The orchestrations of one Function App, kept in a SQLite database.

    `management_app` is the extension's HTTP API. Serve it under `/runtime/webhooks/durabletask`,
    and once more under `/durabletask` on a loopback listener of its own: the app's client uses
    that one. The prefix may be stripped or not.
    """

    def __init__(
        self,
        database: Path,
        runner: FunctionRunner,
        clock: Clock,
        options: DurableOptions,
        storage: AzureStorageOptions | None = None,
    ) -> None:
        """Make the engine; `storage` chooses the azure-storage engine and its own file."""
        self._task_hub = options.hub_name
        self._links: Links | None = None
        self.core: Operations = (
            Engine(Store(database), runner, clock, options)
            if storage is None
            else AzureStorageEngine(storage, runner, clock, options)
        )
        self._api = ManagementApi(self.core, self._started_links)
        self.management_app: AsgiApp = self._api

    async def start(self) -> None:
        """Open the database and go on where the last process ended.

        Raises DatabaseInUse if another host holds it, DatabaseForeign if it is another engine's.
        """
        await self.core.start()
        key = await self.core.setting("system_key", secrets.token_urlsafe(32))
        self._links = Links(self._task_hub, key)

    async def stop(self) -> None:
        """Stop making turns and close the database; the next start goes on from there."""
        await self.core.stop()

    def client_binding(self, base_url: str, rpc_base_url: str) -> str:
        """Return the text of a durable client binding.

        `base_url` ends in `/runtime/webhooks/durabletask`, `rpc_base_url` in `/durabletask`.
        """
        return self._started_links().client_binding(base_url, rpc_base_url)

    def _started_links(self) -> Links:
        if self._links is None:
            raise RuntimeError("the durable engine has not been started")
        return self._links
