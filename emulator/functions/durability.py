"""Mounts the durable engine: where its database lies and under which paths it answers."""

from pathlib import Path

from emulator.functions.asgi import Application, Receive, Scope, Send, respond_empty
from emulator.functions.clock import Clock
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.durable.engine import DurableEngine
from emulator.functions.durable.errors import DurableError
from emulator.functions.hostfile import DurableOptions
from emulator.functions.runner import FunctionRunner
from emulator.functions.web import DURABLE_PATH
from emulator.program import StartError

_RPC_PATH = "/durabletask"


class Durability:
    """The durable engine as the host mounts it."""

    def __init__(
        self,
        data: Path,
        runner: FunctionRunner,
        clock: Clock,
        options: DurableOptions,
        storage: AzureStorageOptions | None = None,
    ) -> None:
        self._engine = DurableEngine(data / "durable.db", runner, clock, options, storage)

    @property
    def management_app(self) -> Application:
        """Return the management API, to be mounted under `DURABLE_PATH`."""
        return self._engine.management_app

    def client_binding(self, main_url: str, rpc_url: str) -> str:
        """Return the JSON that `durable_client_input` hands to a function."""
        return self._engine.client_binding(f"{main_url}{DURABLE_PATH}", f"{rpc_url}{_RPC_PATH}")

    async def start(self) -> None:
        """Take up the work where the last host left it. Raises StartError."""
        try:
            await self._engine.start()
        except DurableError as error:
            raise StartError(f"the durable engine cannot start: {error}") from error

    async def stop(self) -> None:
        """Stop the work; what is not done is in the database."""
        await self._engine.stop()

    async def rpc_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the loopback listener that the durable client of the SDK talks to."""
        if scope["type"] != "http":
            return
        if not scope["path"].startswith(f"{_RPC_PATH}/"):
            await respond_empty(send, 404)
            return
        scope["root_path"] = _RPC_PATH
        await self.management_app(scope, receive, send)
