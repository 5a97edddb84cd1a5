"""Serve a Service Bus namespace on this machine.

Start this program with `python -m emulator.servicebus` or `local-servicebus`.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator import program
from emulator.clock import WallClock
from emulator.program import SettingError
from emulator.servicebus.access import DEVELOPMENT_KEY, DEVELOPMENT_KEY_NAME, AccessPolicies
from emulator.servicebus.administration import create_admin_app
from emulator.servicebus.broker.authorization import ALL_RIGHTS, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.config import (
    ConfigError,
    NamespaceConfig,
    load_config,
    load_policies,
)
from emulator.servicebus.messages import AmqpMessageFormat
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.server import Sockets, load_certificate, serve

DATABASE_NAME = "servicebus.sqlite3"

_BACKLOG = 1024
_MAX_SEGMENT_BYTES = 32767

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator until SIGTERM or SIGINT, and return the exit status of the process."""
    options = _parser().parse_args(arguments)
    return program.run("emulator.servicebus", options.log_level, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    try:
        program.make_private_directory(options.data)
    except OSError as error:
        raise SettingError(
            f"--data: the directory {options.data} cannot be created: {error.strerror}"
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            config = load_config(options.config) if options.config else NamespaceConfig()
            rules = _namespace_rules(options, config)
            _check_keys(options.host, AccessPolicies(rules))
            sockets = _bind(options, stack)
            entities = [*config.queues, *config.topics, *config.subscriptions]
            program.run_loop(_serve(options, entities, rules, sockets))
        except (ConfigError, BrokerError) as error:
            raise SettingError(str(error)) from error


def _namespace_rules(
    options: argparse.Namespace, config: NamespaceConfig
) -> Sequence[AuthorizationRule]:
    """Return the namespace's policies; that of Microsoft's emulator unless `--key` is given."""
    rules = [*config.rules, *(load_policies(options.policies) if options.policies else ())]
    rules += [AuthorizationRule(name, ALL_RIGHTS, value) for name, value in options.key or ()]
    if not options.key and all(rule.name != DEVELOPMENT_KEY_NAME for rule in rules):
        rules.append(AuthorizationRule(DEVELOPMENT_KEY_NAME, ALL_RIGHTS, DEVELOPMENT_KEY))
    return rules


def _bind(options: argparse.Namespace, stack: contextlib.ExitStack) -> Sockets:
    tls = None
    if options.tls_cert or options.tls_key:
        if not (options.tls_cert and options.tls_key):
            raise SettingError("--tls-cert and --tls-key must be given together")
        tls = load_certificate(options.tls_cert, options.tls_key)

    def listen(name: str, port: int) -> list[socket.socket]:
        # `_check_keys` refuses a public key if other machines can connect.
        listeners = program.listen_all(options.host, port, _BACKLOG, allow_remote=True)
        for listener in listeners:
            stack.enter_context(listener)
            if name != "http":
                _limit_segment_size(listener)
            logger.info("listening on %s", program.format_url(listener, name))
        return listeners

    amqp = listen("amqp", options.port)
    admin = listen("http", options.admin_port)
    amqps: list[socket.socket] = []
    for port in options.tls_port or [5671] if tls else ():
        amqps += listen("amqps", port)
    return Sockets(amqp, admin, amqps, tls)


def _limit_segment_size(listener: socket.socket) -> None:
    """Limit TCP_MAXSEG on Linux: azure-servicebus 7.9 to 7.14 sets the value that it reads."""
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _MAX_SEGMENT_BYTES)


async def _serve(
    options: argparse.Namespace,
    settings: Sequence[QueueSettings],
    rules: Sequence[AuthorizationRule],
    sockets: Sockets,
) -> None:
    clock = WallClock()
    database = options.data / DATABASE_NAME
    broker = await Broker.open(database, settings, clock, AmqpMessageFormat())
    try:
        policies = AccessPolicies(rules, broker)
        _check_keys(options.host, policies)
        namespace = Namespace(broker, policies, clock)
        changes: set[asyncio.Task[None]] = set()

        def change_queues() -> None:
            task = asyncio.create_task(_set_queues(broker, options.config))
            changes.add(task)
            task.add_done_callback(changes.discard)

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, change_queues)
        # As in Microsoft's emulator, the management API on loopback needs no token.
        admin = create_admin_app(
            broker, namespace, policies, needs_token=program.is_remote(options.host)
        )
        await serve(namespace, admin, sockets, program.http_limits(options))
    finally:
        await broker.close()


async def _set_queues(broker: Broker, path: Path | None) -> None:
    """Create or change the queues that the configuration file lists now."""
    try:
        config = load_config(path) if path else NamespaceConfig()
        for settings in config.queues:
            await broker.set_queue(settings)
    except (ConfigError, BrokerError) as error:
        logger.error("the queues stay as they are: %s", error)  # noqa: TRY400 - one line
    else:
        logger.info("the queues are those of %s", path)


def _check_keys(host: str | None, policies: AccessPolicies) -> None:
    """Raise SettingError if other machines could connect with Microsoft's public key."""
    name = policies.find_public()
    if program.is_remote(host) and name is not None:
        raise SettingError(
            f"--host {host}: other machines could connect, but the key of the policy {name} is "
            "public: give this policy a secret key"
        )


def _parser() -> argparse.ArgumentParser:
    parser = program.options_parser(
        "emulator.servicebus",
        "Serve Azure Service Bus queues and topics on this machine.",
        5672,
        "AMQP port",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="configuration file in the format of Config.json of Microsoft's emulator",
    )
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="FILE",
        help="JSON file with shared access policies of the namespace, besides those of --config",
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
        help="shared access key with all rights, which replaces the key of Microsoft's emulator; "
        "may be repeated",
    )
    return parser


def _key(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError("a shared access key must have the form NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
