"""Run RabbitMQ or Redis as a component: `python -m loosely.local.broker_server rabbitmq …`.

The servers are programs of the machine, not packages. They listen on loopback, keep what they have
confirmed if they are killed, and have a password, which they read from a file.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from loosely.local.errors import ServerMissing

SETTING_PASSWORD = "BROKER_PASSWORD"  # noqa: S105 - the name of a variable
USER = "loosely"

# Debian's rabbitmq-server in the PATH works for the user rabbitmq only.
_PLACES = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin")
_PROGRAMS = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}
# RabbitMQ takes a message back that is not acknowledged for so long. No deadline is longer.
_CONSUMER_TIMEOUT_MS = 7 * 24 * 3600 * 1000


def find_server(broker: str) -> str:
    """Return the path of a broker's server. Raises ServerMissing."""
    name = _PROGRAMS[broker]
    path = os.pathsep.join((_PLACES[0], os.environ.get("PATH", ""), *_PLACES[1:]))
    if (found := shutil.which(name, path=path)) is None:
        raise ServerMissing(
            f"--broker {broker} needs the program {name}, which is not installed: install it, on "
            f"Debian and Ubuntu with `apt-get install {name}`"
        )
    return found


def run_redis(server: str, data: Path, port: int, password: str) -> None:
    """Replace this process by Redis, which writes each message to disk before it confirms it."""
    lines = [
        f"port {port}",
        "bind 127.0.0.1 -::1",
        f"dir {data}",
        f"requirepass {password}",
        "appendonly yes",
        "appendfsync always",
        "maxmemory-policy noeviction",
        'save ""',
        "loglevel notice",
    ]
    settings = _write(data / "redis.conf", lines)
    os.execv(server, [server, str(settings)])  # noqa: S606 - no shell


def run_rabbitmq(server: str, data: Path, port: int, dist_port: int, password: str) -> int:
    """Run RabbitMQ with a name server of its own until a signal, and return the exit code."""
    settings = _write(
        data / "rabbitmq.conf",
        [
            f"listeners.tcp.1 = 127.0.0.1:{port}",
            f"default_user = {USER}",
            f"default_pass = {password}",
            f"consumer_timeout = {_CONSUMER_TIMEOUT_MS}",
            "log.file = false",
            "log.console = true",
            "log.console.level = warning",
            # The readiness probe opens connections, and says nothing on them.
            "log.connection.level = critical",
        ],
    )
    plugins = _write(data / "enabled_plugins", ["[]."])
    name_port = _free_port()
    environment = {
        **os.environ,
        "HOME": str(data),
        "ERL_EPMD_PORT": str(name_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "loosely@localhost",
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "log"),
        "RABBITMQ_CONFIG_FILE": str(settings),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        # Its threads do not spin while they wait, because the device needs the processor.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
    }
    environment.pop(SETTING_PASSWORD, None)
    # RabbitMQ would start this as a daemon, which would outlive it.
    names = subprocess.Popen(["epmd", "-port", str(name_port)], env=environment)  # noqa: S603, S607
    broker = subprocess.Popen([server], env=environment)  # noqa: S603

    # `loosely up` imports this module, and does not need psutil.
    import psutil  # noqa: PLC0415

    def stop(number: int, frame: FrameType | None) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(broker.pid).children(recursive=True):
                if process.name().startswith("beam"):
                    process.terminate()

    signal.signal(signal.SIGTERM, stop)
    try:
        return broker.wait()
    finally:
        names.kill()
        names.wait()


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run the server that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m loosely.local.broker_server")
    parser.add_argument("broker", choices=tuple(_PROGRAMS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dist-port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    os.umask(0o077)
    options.data.mkdir(parents=True, exist_ok=True)
    password = os.environ[SETTING_PASSWORD]
    try:
        server = find_server(options.broker)
    except ServerMissing as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.broker == "redis":
        run_redis(server, options.data, options.port, password)
    return run_rabbitmq(server, options.data, options.port, options.dist_port, password)


if __name__ == "__main__":
    raise SystemExit(main())
