"""The parts of the host that serve a loaded app: durable extension, listeners and triggers."""

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.functions.admin import AdminApplication
from emulator.functions.app_process import AppSupervisor, Invoker
from emulator.functions.asgi import Application, Listener
from emulator.functions.catalogue import build_catalogue
from emulator.functions.clock import HostClock
from emulator.functions.durable.extension import DurableExtension
from emulator.functions.settings import HostFile, resolve
from emulator.functions.triggers.binding import Triggers
from emulator.functions.web import WebApplication
from emulator.hosts import HostRules, OriginFilter
from emulator.program import LOOPBACK_HOSTS, bind, format_url

if TYPE_CHECKING:
    from emulator.functions.host import HostOptions

_log = logging.getLogger("functions.host")


class AppServices:
    """Starts and stops the durable extension, the listeners and the triggers of one loaded app."""

    def __init__(
        self,
        options: "HostOptions",
        host_file: HostFile,
        settings: Mapping[str, str],
        clock: HostClock,
        supervisor: AppSupervisor,
    ) -> None:
        """Create the triggers of the app. `supervisor` must have loaded the app.

        Raises AppLoadError if the host does not support a function of the app.
        """
        self._options = options
        self._host_file = host_file
        self._settings = settings
        self._clock = clock
        self._supervisor = supervisor
        self._catalogue = build_catalogue(supervisor.functions, host_file, settings)
        self._invoker = Invoker(
            supervisor,
            host_file.function_timeout_seconds,
            self._catalogue.orchestrators,
            self._catalogue.activities,
            self._catalogue.disabled_activities,
        )
        self._triggers = Triggers(self._catalogue, settings, self._invoker, options.data, clock)
        self._durable: DurableExtension | None = None
        self._listeners: list[Listener] = []

    async def start(self, main_sockets: Sequence[socket.socket]) -> None:
        """Start the durable extension, the listeners and the triggers, in this order.

        Because of this order, a function can use the durable client as soon as its trigger fires.
        Raises StartError if the durable extension or a listener cannot start.

        Args:
            main_sockets: The bound sockets of the host's main port. The first one determines the
                URLs that the host returns.
        """
        url = format_url(main_sockets[0])
        if self._catalogue.is_durable:
            await self._start_durable(url)
        self._supervisor.begin()
        await self._listen(self._web(url), main_sockets)
        self._triggers.start()
        self._announce(url)

    async def stop(self) -> None:
        """Stop the triggers, then the listeners and the durable extension."""
        await self._triggers.stop()
        # Stop the main port first: running functions may still need the durable client's port.
        for listener in reversed(self._listeners):
            await listener.stop()
        if self._durable is not None:
            await self._durable.stop()

    async def _start_durable(self, url: str) -> None:
        rpc_socket = bind(self._options.host or LOOPBACK_HOSTS[0], self._options.rpc_port)
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
        self._supervisor.client_binding = durable.client_binding(url, format_url(rpc_socket))
        await self._listen(durable.rpc_app, [rpc_socket])

    def _web(self, url: str) -> WebApplication:
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
        limit = self._host_file.max_outstanding_requests
        return WebApplication(
            self._catalogue.routes, self._invoker, OriginFilter(admin, rules), management, limit
        )

    async def _listen(self, application: Application, bound: Sequence[socket.socket]) -> None:
        listener = Listener(application, bound, self._options.limits)
        self._listeners.append(listener)
        await listener.start()

    def _announce(self, url: str) -> None:
        for route in self._catalogue.routes.routes:
            methods = ",".join(sorted(route.methods)) or "any method"
            _log.info("%s: [%s] %s/%s", route.function, methods, url, route.template)
        _log.info("%d functions loaded; listening on %s", len(self._catalogue.functions), url)
