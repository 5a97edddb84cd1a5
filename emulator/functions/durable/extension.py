"""Start and stop the durable engine for the Functions host, and serve its HTTP routes."""

import secrets
from pathlib import Path

from emulator.clock import UtcClock
from emulator.functions.asgi import Receive, Scope, Send, respond_empty
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
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
    """A durable engine, its management API and its client binding.

    The host must serve `management_app` under `/runtime/webhooks/durabletask` on the main port. It
    must serve `rpc_app` on a separate loopback port, for the SDK's durable client in the app.
    """

    def __init__(
        self,
        database: Path,
        runner: FunctionRunner,
        clock: UtcClock,
        options: DurableOptions,
        storage: AzureStorageOptions | None = None,
    ) -> None:
        """Create the engine: azure-storage if `storage` has its options."""
        self._task_hub = options.hub_name
        self._urls: ManagementUrls | None = None
        self.engine: DurableEngine
        if storage is None:
            self.engine = LocalEngine(Store(database), runner, clock, options)
        else:
            # This import is slow, and the default engine does not need the module.
            from emulator.functions.durable.azure_storage.engine import (  # noqa: PLC0415
                AzureStorageEngine,
            )

            self.engine = AzureStorageEngine(storage, runner, clock, options)
        self.management_app = ManagementApi(self.engine, self._started_urls)

    async def start(self) -> None:
        """Open the database, and continue the work in it. Raises StartError if it is unusable."""
        try:
            await self.engine.start()
            key = await self.engine.get_setting("system_key", secrets.token_urlsafe(32))
        except DurableError as error:
            raise StartError(f"the durable engine cannot start: {error}") from error
        self._urls = ManagementUrls(self._task_hub, key)

    async def drain(self, timeout_seconds: float) -> None:
        """Start no more work, and wait at most `timeout_seconds` for the running one."""
        await self.engine.drain(timeout_seconds)

    async def stop(self) -> None:
        """Cancel the episodes that still run, and close the database."""
        await self.engine.stop()

    def client_binding(self, main_url: str, rpc_url: str) -> str:
        """Return the JSON that a function with `durable_client_input` receives."""
        urls = self._started_urls()
        return urls.client_binding(f"{main_url}{DURABLE_PATH}", f"{rpc_url}{RPC_PATH}")

    async def rpc_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request of the SDK's durable client."""
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
