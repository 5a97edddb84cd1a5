"""Serve a Service Bus namespace on this machine.

Start this program with `python -m emulator.servicebus` or `local-servicebus`.
"""

import argparse
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator import program
from emulator.program import HttpLimits, SettingError
from emulator.servicebus.administration import create_admin_app
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import WallClock
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.config import ConfigError, load_config
from emulator.servicebus.fault_routes import fault_routes
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.server import Sockets, load_certificate, serve

# The key in the documented connection string of Microsoft's emulator. The key is public, so it is
# not a secret.
DEVELOPMENT_KEY_NAME = "RootManageSharedAccessKey"
DEVELOPMENT_KEY = "SAS_KEY_VALUE"
DATABASE_NAME = "servicebus.sqlite3"

_BACKLOG = 1024
_MAX_SEGMENT_BYTES = 32767

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator until SIGTERM or SIGINT, and return the exit status of the process."""
    options = _parser().parse_args(arguments)
    return program.run("emulator.servicebus", options.log_level, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    keys = dict(options.key or [(DEVELOPMENT_KEY_NAME, DEVELOPMENT_KEY)])
    try:
        program.make_private_directory(options.data)
    except OSError as error:
        raise SettingError(
            f"--data: the directory {options.data} cannot be created: {error.strerror}"
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            settings = load_config(options.config) if options.config else []
            sockets = _bind(options, stack)
            limits = program.http_limits(options)
            program.run_loop(_serve(options.data / DATABASE_NAME, settings, keys, sockets, limits))
        except (ConfigError, BrokerError) as error:
            raise SettingError(str(error)) from error


def _bind(options: argparse.Namespace, stack: contextlib.ExitStack) -> Sockets:
    tls = None
    if options.tls_cert or options.tls_key:
        if not (options.tls_cert and options.tls_key):
            raise SettingError("--tls-cert and --tls-key must be given together")
        tls = load_certificate(options.tls_cert, options.tls_key)
    amqp = stack.enter_context(program.listen(options.host, options.port, _BACKLOG))
    admin = stack.enter_context(program.listen(options.host, options.admin_port, _BACKLOG))
    tls_ports = options.tls_port or [5671]
    amqps = (
        [stack.enter_context(program.listen(options.host, port, _BACKLOG)) for port in tls_ports]
        if tls
        else []
    )
    for listener in (amqp, *amqps):
        _limit_segment_size(listener)
    for name, listener in (("amqp", amqp), ("http", admin), *(("amqps", each) for each in amqps)):
        logger.info("listening on %s", program.format_url(listener, name))
    return Sockets(amqp, admin, amqps, tls)


def _limit_segment_size(listener: socket.socket) -> None:
    """On Linux, limit the maximum segment size (TCP_MAXSEG) of all accepted connections.

    The asynchronous client of azure-servicebus 7.9 to 7.14 reads TCP_MAXSEG from its socket and
    then sets the same value. Without this limit, the kernel may report a value for the loopback
    interface that is larger than it allows a program to set.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _MAX_SEGMENT_BYTES)


async def _serve(
    database: Path,
    settings: Sequence[QueueSettings],
    keys: dict[str, str],
    sockets: Sockets,
    limits: HttpLimits,
) -> None:
    clock = WallClock()
    broker = await Broker.open(database, settings, clock)
    try:
        # As in Microsoft's emulator, the management API on loopback needs no token.
        namespace = Namespace(broker, keys, clock)
        admin = create_admin_app(broker, further=fault_routes(namespace))
        await serve(namespace, admin, sockets, limits)
    finally:
        await broker.close()


def _parser() -> argparse.ArgumentParser:
    parser = program.options_parser(
        "emulator.servicebus",
        "Serve Azure Service Bus queues on this machine.",
        5672,
        "AMQP port",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="configuration file in the format of Config.json of Microsoft's emulator",
    )
    parser.add_argument(
        "--admin-port",
        type=program.port_number,
        default=5300,
        help="port of the management API over HTTP (default: 5300)",
    )
    parser.add_argument("--tls-cert", help="certificate file; if set, AMQP is also served over TLS")
    parser.add_argument("--tls-key", help="private key file of the certificate")
    parser.add_argument(
        "--tls-port",
        type=program.port_number,
        action="append",
        help="port for AMQP over TLS, also inside WebSocket (default: 5671); may be repeated",
    )
    parser.add_argument(
        "--key",
        type=_key,
        action="append",
        metavar="NAME=VALUE",
        help="shared access key, which replaces the key of Microsoft's emulator; may be repeated",
    )
    return parser


def _key(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError("a shared access key must have the form NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
