"""The parts of the host that serve a loaded app: durable extension, HTTP routes and triggers."""

import asyncio
import logging
import sys
from dataclasses import replace

from emulator.clock import UtcClock
from emulator.functions.admin import AdminApplication
from emulator.functions.asgi import Application, Receive, Scope, Send
from emulator.functions.catalogue import (
    FunctionCatalogue,
    build_catalogue,
    select_functions,
)
from emulator.functions.console import list_functions
from emulator.functions.durable.direct import DurableBinding
from emulator.functions.durable.extension import DurableExtension
from emulator.functions.durable.management import (
    RPC_PATH,
    ManagementRequest,
    ManagementResponse,
)
from emulator.functions.invoker import Invoker
from emulator.functions.main_port import (
    NOT_RUNNING,
    HostPorts,
    MainPort,
    respond_not_running,
)
from emulator.functions.options import HostOptions
from emulator.functions.routes import RouteTable
from emulator.functions.settings import AppConfiguration, ServiceBusOptions, resolve
from emulator.functions.supervisor import AppSupervisor
from emulator.functions.triggers.binding import Triggers
from emulator.functions.web import RequestLimits, WebApplication
from emulator.hosts import HostRules, OriginFilter
from emulator.program import format_url

_log = logging.getLogger("functions.host")
# As long as a listener waits for requests in flight when it stops.
_RPC_SECONDS = 5.0


class AppServices:
    """Starts and stops the durable extension, the HTTP routes and the triggers of a loaded app."""

    def __init__(
        self,
        options: HostOptions,
        configuration: AppConfiguration,
        clock: UtcClock,
        supervisor: AppSupervisor,
        ports: HostPorts,
    ) -> None:
        """Create the triggers of the loaded app. Raises AppLoadError if one is unsupported."""
        self._options = options
        host_file, settings = configuration.host_file, configuration.settings
        self._host_file = host_file
        self._settings = settings
        self._clock = clock
        self._supervisor = supervisor
        self._main_port, self._rpc_port = ports.main, ports.rpc
        functions = select_functions(supervisor.functions, options.functions)
        self._catalogue = build_catalogue(functions, host_file, settings)
        self._invoker = Invoker(
            supervisor,
            host_file.function_timeout_seconds,
            self._catalogue,
            logs_invocations=options.logs_invocations,
        )
        self._triggers = Triggers(self._catalogue, settings, self._invoker, options.data, clock)
        self._durable: DurableExtension | None = None

    async def start(self) -> None:
        """Start the durable extension, the HTTP routes and the triggers, which need the former.

        Raises StartError if the durable extension cannot start or a port is in use.
        """
        url = format_url(self._main_port.sockets[0])
        if self._catalogue.is_durable:
            await self._start_durable(url)
        self._supervisor.begin()
        self._main_port.serve(self._web(url))
        await self._main_port.start()
        self._triggers.start()
        self._announce(url)

    async def stop(self) -> None:
        """Stop the triggers, then the main port and the durable extension."""
        await self._triggers.stop()
        # Stop the main port first: running functions may still need the durable client's port.
        await self._main_port.stop()
        await self._stop_durable()

    async def unload(self, timeout_seconds: float) -> None:
        """Stop the triggers and the durable extension, and make new HTTP requests wait.

        Wait up to `timeout_seconds` for running requests, activities and episodes.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        self._main_port.hold()
        await self._triggers.stop()
        await self._main_port.drain(max(0.0, deadline - loop.time()))
        if self._durable is not None:
            await self._durable.drain(max(0.0, deadline - loop.time()))
        await self._stop_durable()

    async def hand_over(self, timeout_seconds: float) -> asyncio.Event:
        """Stop everything except the HTTP requests in flight, which still use the app process.

        Wait up to `timeout_seconds` for running activities and episodes; new requests wait for the
        next app. Return an event that is set when the last HTTP request in flight has ended.
        """
        await self._triggers.stop()
        if self._durable is not None:
            await self._durable.drain(timeout_seconds)
        is_idle = self._main_port.hold()
        await self._stop_durable()
        return is_idle

    async def _start_durable(self, url: str) -> None:
        options = self._host_file.durable
        options = replace(options, hub_name=resolve(options.hub_name, self._settings))
        durable = DurableExtension(
            self._options.data / "durable.db",
            self._invoker,
            self._clock,
            options,
            self._options.storage,
        )
        self._durable = durable
        await durable.start()
        rpc_url = format_url(self._rpc_port.sockets[0])
        self._supervisor.durable = DurableBinding(
            durable.client_binding(url, rpc_url), f"{rpc_url}{RPC_PATH}/", self._respond_directly
        )
        rules = HostRules(self._options.limits.allowed_hosts)
        rpc_app = OriginFilter(durable.rpc_app, rules)
        self._rpc_port.serve(rpc_app, durable.management_app.respond)
        await self._rpc_port.start()

    async def _respond_directly(self, request: ManagementRequest) -> ManagementResponse:
        """Respond to the durable client in this process, also while the app is loaded again."""
        response: ManagementResponse | None = await self._rpc_port.call(request)
        return response or ManagementResponse(503, NOT_RUNNING.decode())

    async def _stop_durable(self) -> None:
        self._rpc_port.hold()
        if self._durable is not None:
            await self._rpc_port.drain(_RPC_SECONDS)
            await self._durable.stop()

    def _web(self, url: str) -> Application:
        rules = HostRules(self._options.limits.allowed_hosts)
        management = None
        if self._durable is not None:
            management = OriginFilter(self._durable.management_app, rules)
        admin = AdminApplication(
            self._catalogue,
            url,
            is_ready=lambda: self._supervisor.is_ready,
            run=self._triggers.run,
        )
        web = WebApplication(
            self._catalogue.routes,
            self._invoker,
            OriginFilter(admin, rules),
            management,
            RequestLimits.of(self._host_file, self._settings),
        )
        return _allow_origins(web, self._options.cors_origins)

    def _announce(self, url: str) -> None:
        if _log.isEnabledFor(logging.INFO):
            port = self._main_port.sockets[0].getsockname()[1]
            shown = url if self._options.host else f"http://localhost:{port}"
            sys.stderr.write(
                list_functions(self._catalogue, shown, has_colour=self._options.has_colour)
            )
        _log.info("%d functions loaded; listening on %s", len(self._catalogue.functions), url)


class UnloadedApp:
    """The HTTP routes of the host while no app is loaded.

    If `errors` is empty, the host serves the home page and the admin API, and all other paths
    return 404. If there are errors, `/admin/host/status` lists them, `/admin/host/ping` still
    works, and all other paths return 503.
    """

    def __init__(self, options: HostOptions, main_port: MainPort, errors: tuple[str, ...]) -> None:
        catalogue = FunctionCatalogue([], RouteTable([]), ServiceBusOptions())
        admin = AdminApplication(
            catalogue,
            format_url(main_port.sockets[0]),
            is_ready=lambda: True,
            run=_refuse_run,
            errors=errors,
        )
        self._admin = OriginFilter(admin, HostRules(options.limits.allowed_hosts))
        self._has_failed = bool(errors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the admin API, or respond with 503."""
        if self._has_failed and scope["path"] not in ("/admin/host/status", "/admin/host/ping"):
            await respond_not_running(send)
        else:
            await self._admin(scope, receive, send)


async def _refuse_run(name: str, _text: str) -> None:
    raise LookupError(name)


def _allow_origins(application: Application, origins: tuple[str, ...]) -> Application:
    """Return the application with CORS headers for `origins`, as with `--cors` of Core Tools."""
    if not origins:
        return application
    from starlette.middleware.cors import CORSMiddleware  # noqa: PLC0415 - seldom needed

    allowed: Application = CORSMiddleware(
        application, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
    )
    return allowed
