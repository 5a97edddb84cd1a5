"""The Durable Task extension as the Functions host uses it."""

import secrets
from pathlib import Path

from emulator.functions.asgi import Receive, Scope, Send, respond_empty
from emulator.functions.clock import HostClock
from emulator.functions.durable.azure_storage.engine import AzureStorageEngine, AzureStorageOptions
from emulator.functions.durable.engine import DurableEngine
from emulator.functions.durable.errors import DurableError
from emulator.functions.durable.local.engine import LocalEngine
from emulator.functions.durable.management import (
    DURABLE_PATH,
    RPC_PATH,
    ManagementApi,
    ManagementUrls,
)
from emulator.functions.durable.runner import FunctionRunner
from emulator.functions.durable.store import Store
from emulator.functions.settings import DurableOptions
from emulator.program import StartError


class DurableExtension:
    """An engine, its management API and its client binding.

    Serve `management_app` under `/runtime/webhooks/durabletask` of the host's main port. Serve
    `rpc_app` on a loopback port of its own: the SDK's durable client in the app uses that one.
    """

    def __init__(
        self,
        database: Path,
        runner: FunctionRunner,
        clock: HostClock,
        options: DurableOptions,
        storage: AzureStorageOptions | None = None,
    ) -> None:
        """Make the engine.

        Args:
            database: The SQLite file of the default engine.
            runner: Runs the app's orchestrators and activities.
            clock: Gives the time to timers.
            options: `extensions.durableTask` of host.json.
            storage: If given, use the azure-storage engine with its own file instead.
        """
        self._task_hub = options.hub_name
        self._urls: ManagementUrls | None = None
        self.engine: DurableEngine = (
            LocalEngine(Store(database), runner, clock, options)
            if storage is None
            else AzureStorageEngine(storage, runner, clock, options)
        )
        self.management_app = ManagementApi(self.engine, self._started_urls)

    async def start(self) -> None:
        """Open the database and continue the work in it.

        Raises StartError if another host holds the database or another engine wrote it.
        """
        try:
            await self.engine.start()
            key = await self.engine.get_setting("system_key", secrets.token_urlsafe(32))
        except DurableError as error:
            raise StartError(f"the durable engine cannot start: {error}") from error
        self._urls = ManagementUrls(self._task_hub, key)

    async def stop(self) -> None:
        """Stop running episodes and close the database; the next start continues from there."""
        await self.engine.stop()

    def client_binding(self, main_url: str, rpc_url: str) -> str:
        """Return the JSON that `durable_client_input` passes to a function.

        Args:
            main_url: The URL of the host's main port, without a path.
            rpc_url: The URL of the port that serves `rpc_app`, without a path.
        """
        urls = self._started_urls()
        return urls.client_binding(f"{main_url}{DURABLE_PATH}", f"{rpc_url}{RPC_PATH}")

    async def rpc_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the SDK's durable client."""
        if scope["type"] != "http":
            return
        if not scope["path"].startswith(f"{RPC_PATH}/"):
            await respond_empty(send, 404)
            return
        scope["root_path"] = RPC_PATH
        await self.management_app(scope, receive, send)

    def _started_urls(self) -> ManagementUrls:
        if self._urls is None:
            raise RuntimeError("the durable extension has not been started")
        return self._urls
