"""Serve AMQP and the management API until the process receives SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette

from emulator.hosts import HostRules, OriginFilter
from emulator.http_server import HttpServer
from emulator.program import HttpLimits, SettingError
from emulator.servicebus.amqp.websocket import ProtocolDetector
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.namespace import Namespace

_GRACE_SECONDS = 3
_IDLE_CHECK_SECONDS = 5.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets of the Service Bus emulator.

    `amqps` and `tls` are set only if the user gives a TLS certificate.
    """

    amqp: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    amqps: Sequence[socket.socket] = ()
    tls: ssl.SSLContext | None = None


def load_certificate(certificate: str, key: str) -> ssl.SSLContext:
    """Return a TLS context with this certificate and key. Raises SettingError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise SettingError(
            f"the files of --tls-cert and --tls-key cannot be loaded: {error}"
        ) from error
    return context


async def serve(
    namespace: Namespace, admin: Starlette, sockets: Sockets, limits: HttpLimits
) -> None:
    """Serve AMQP and the management API until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    rules = HostRules(limits.allowed_hosts)
    enter = partial(ProtocolDetector, namespace.connect, rules)
    servers = [
        *[await loop.create_server(enter, sock=listener) for listener in sockets.amqp],
        *[
            await loop.create_server(enter, sock=listener, ssl=sockets.tls)
            for listener in sockets.amqps
        ],
    ]
    web = HttpServer(OriginFilter(admin, rules), limits, timeout_graceful_shutdown=_GRACE_SECONDS)
    serving = asyncio.create_task(web.serve(sockets=list(sockets.admin)))
    waiting = asyncio.create_task(stopped.wait())
    deleting = asyncio.create_task(_delete_idle(namespace))
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    _close(servers, namespace)
    web.should_exit = True
    waiting.cancel()
    deleting.cancel()
    await serving


async def _delete_idle(namespace: Namespace) -> None:
    """Delete idle queues, topics and subscriptions every few seconds."""
    while True:
        await asyncio.sleep(_IDLE_CHECK_SECONDS)
        try:
            await namespace.delete_idle()
        except BrokerError as error:
            logger.warning("idle queues could not be deleted; the next attempt follows: %s", error)


def _close(servers: Sequence[asyncio.Server], namespace: Namespace) -> None:
    for server in servers:
        server.close()
    namespace.close()
