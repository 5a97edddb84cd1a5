"""``python -m emulator.servicebus``: serve a Service Bus namespace on loopback ports."""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator.servicebus.broker.admin import create_admin_app
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import SystemClock
from emulator.servicebus.broker.config import ConfigError, load_config
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.errors import PortInUseError, SettingError
from emulator.servicebus.listeners import (
    Sockets,
    bind,
    load_certificate,
    serve,
)
from emulator.servicebus.server import Namespace

try:
    import uvloop as loops
except ImportError:  # not made for Windows
    import asyncio as loops  # type: ignore[no-redef] # both have new_event_loop

# What the connection string of Microsoft's emulator says: public, no secret.
DEVELOPMENT_KEY_NAME = "RootManageSharedAccessKey"
DEVELOPMENT_KEY = "SAS_KEY_VALUE"
DATABASE_NAME = "servicebus.sqlite3"

_EXIT_SETTING = 2
_EXIT_PORT_IN_USE = 98

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        _run(options)
    except (SettingError, ConfigError, BrokerError) as error:
        return _say(error, _EXIT_SETTING)
    except PortInUseError as error:
        return _say(error, _EXIT_PORT_IN_USE)
    return 0


def _say(error: Exception, status: int) -> int:
    sys.stderr.write(f"emulator.servicebus: {error}\n")
    return status


def _run(options: argparse.Namespace) -> None:
    settings = load_config(options.config) if options.config else []
    keys = dict(options.key or [(DEVELOPMENT_KEY_NAME, DEVELOPMENT_KEY)])
    try:
        options.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"--data: {options.data} cannot be made: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        sockets = _bind(options, stack)
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(_serve(options.data / DATABASE_NAME, settings, keys, sockets))


def _bind(options: argparse.Namespace, stack: contextlib.ExitStack) -> Sockets:
    tls = None
    if options.tls_cert or options.tls_key:
        if not (options.tls_cert and options.tls_key):
            raise SettingError("--tls-cert and --tls-key belong together")
        tls = load_certificate(options.tls_cert, options.tls_key)
    amqp = stack.enter_context(bind(options.host, options.port))
    admin = stack.enter_context(bind(options.host, options.admin_port))
    tls_ports = options.tls_port or [5671]
    amqps = [stack.enter_context(bind(options.host, port)) for port in tls_ports] if tls else []
    for name, listener in (("amqp", amqp), ("http", admin), *(("amqps", each) for each in amqps)):
        host, port = listener.getsockname()[:2]
        logger.info("listening on %s://%s:%d", name, host, port)
    return Sockets(amqp, admin, amqps, tls)


async def _serve(
    database: Path, settings: Sequence[QueueSettings], keys: dict[str, str], sockets: Sockets
) -> None:
    clock = SystemClock()
    broker = await Broker.open(database, settings, clock)
    try:
        # Whoever reaches the loopback interface may manage the queues, as in Microsoft's emulator.
        await serve(Namespace(broker, keys, clock), create_admin_app(broker), sockets)
    finally:
        await broker.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emulator.servicebus",
        description="A Service Bus on this machine, for azure-servicebus.",
    )
    parser.add_argument("--config", type=Path, help="Config.json of Microsoft's emulator")
    parser.add_argument("--port", type=_port, default=5672, help="AMQP port (default: 5672)")
    parser.add_argument(
        "--admin-port", type=_port, default=5300, help="HTTP port for management (default: 5300)"
    )
    parser.add_argument("--data", type=Path, required=True, help="directory to keep messages in")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--tls-cert", help="certificate file: serve AMQP over TLS too")
    parser.add_argument("--tls-key", help="private key file of the certificate")
    parser.add_argument(
        "--tls-port",
        type=_port,
        action="append",
        help="port for AMQP over TLS (default: 5671); may be repeated, as with 443 for WebSocket",
    )
    parser.add_argument(
        "--key",
        type=_key,
        action="append",
        metavar="NAME=VALUE",
        help="shared access key, in place of that of Microsoft's emulator; may be repeated",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="least severe messages to log (default: info)",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("not between 0 and 65535")
    return port


def _key(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
