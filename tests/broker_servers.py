"""Start and stop servers of all brokers for tests, each in a folder of its own.

RabbitMQ and Redis are the real servers of this machine. Service Bus is our emulator.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from contract.catalogue import Catalogue
from contract.queues import config
from tests import connections
from tests.ports import free_port
from tests.suspension import suspend_group

ROOT: Final = Path(__file__).parents[1]
START_SECONDS: Final = 60.0
_RABBITMQ_FOLDERS: Final = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/sbin"), Path("/usr/bin"))


class BrokerServer:
    """A broker's server, a process that a test can kill, stop, pause and start again."""

    def __init__(
        self,
        url: str,
        port: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
    ) -> None:
        self.url = url
        self.port = port
        self._command = command
        self._environ = environ
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server with its data, and return when it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends_at = time.monotonic() + START_SECONDS
        while not self._is_ready():
            is_dead = self._process.poll() is not None
            if is_dead or time.monotonic() > ends_at:
                self.kill()
                raise AssertionError(f"{self._command[0]}: {self._log.read_text()[-2000:]}")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)

    def kill(self) -> None:
        """Kill the server. It keeps what it has written to its disk."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the server to stop, and return when it has."""
        self._end(signal.SIGTERM)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the server's threads: connections stay open, and get no answer."""
        suspend_group(self.pid)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return self._greets(connection)
        except OSError:
            return False

    def _greets(self, connection: socket.socket) -> bool:
        return True

    def _end(self, sent: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, sent)
            process.wait(30)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class RabbitServer(BrokerServer):
    """A node of RabbitMQ. `node` is its Erlang name, and `settings` are lines of its settings."""

    def __init__(
        self, folder: Path, cookie: str, epmd_port: int, settings: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        home = folder / "home"
        home.mkdir(exist_ok=True)
        cookie_file = home / ".erlang.cookie"
        if not cookie_file.exists():
            cookie_file.write_text(cookie)
            cookie_file.chmod(0o400)
        (folder / "plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in settings))
        port, dist_port = free_port(), free_port()
        self.node = f"loosely-{port}@localhost"
        environ = {
            **os.environ,
            "HOME": str(home),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        }
        url = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
        command = [str(_find_program("rabbitmq-server", _RABBITMQ_FOLDERS))]
        super().__init__(url, port, command, environ, folder / "output.log")

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on this node, and return what it prints."""
        program = str(_find_program("rabbitmqctl", _RABBITMQ_FOLDERS))
        done = subprocess.run(
            [program, "-n", self.node, *arguments],
            env=dict(self._environ),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_host(self, name: str) -> str:
        """Create a virtual host, and return its URL."""
        host, user, all_names = f'<<"{name}">>', '<<"guest">>', '<<".*">>'
        rights = ",".join((user, host, all_names, all_names, all_names, user))
        self.control(
            "eval",
            f"rabbit_vhost:add({host}, {user}),"
            f"rabbit_auth_backend_internal:set_permissions({rights}).",
        )
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def _greets(self, connection: socket.socket) -> bool:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return bool(connection.recv(1))


class ServiceBusServer(BrokerServer):
    """Our Service Bus with the queues of a catalogue. Its `url` is the connection string."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "config.json"
        configuration.write_text(json.dumps(config(catalogue)), encoding="utf-8")
        port, admin_port = free_port(), free_port()
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        command = [
            *(sys.executable, "-m", "emulator.servicebus", "--config", str(configuration)),
            *("--port", str(port), "--admin-port", str(admin_port)),
            *("--data", str(folder / "data"), "--log-level", "warning"),
        ]
        environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"}
        url = connections.service_bus(port)
        super().__init__(url, port, command, environ, folder / "output.log")


@contextmanager
def running_service_bus_server(folder: Path, catalogue: Catalogue) -> Iterator[ServiceBusServer]:
    """Run our Service Bus, which keeps its messages in `folder`."""
    server = ServiceBusServer(folder, catalogue)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_rabbitmq(folder: Path, *settings: str) -> Iterator[RabbitServer]:
    """Run a RabbitMQ of one node."""
    with running_rabbitmq_cluster(folder, 1, settings) as (server,):
        yield server


@contextmanager
def running_rabbitmq_cluster(
    folder: Path, count: int, settings: Sequence[str] = ()
) -> Iterator[list[RabbitServer]]:
    """Run `count` nodes of RabbitMQ that form a cluster."""
    cookie, epmd_port = secrets.token_hex(16), free_port()
    folders = [folder / f"node{number}" for number in range(count)]
    nodes = [RabbitServer(each, cookie, epmd_port, settings) for each in folders]
    with ExitStack() as stack:
        # The nodes find each other by it. They would start one that outlives them.
        epmd = subprocess.Popen(
            [str(_find_program("epmd", ())), "-port", str(epmd_port), "-address", "127.0.0.1"]
        )
        stack.callback(epmd.wait)
        stack.callback(epmd.kill)
        for number, node in enumerate(nodes):
            node.start()
            stack.callback(node.kill)
            if number:
                node.control("stop_app")
                node.control("join_cluster", nodes[0].node)
                node.control("start_app")
        yield nodes


@contextmanager
def running_redis_server(folder: Path, *options: str) -> Iterator[BrokerServer]:
    """Run a Redis that writes each change to its disk before it answers, unless options differ."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    program = str(_find_program("redis-server", (Path("/usr/bin"),)))
    command = [
        *(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "always", *options),
    ]
    server = BrokerServer(
        f"redis://127.0.0.1:{port}/0", port, command, os.environ, folder / "output.log"
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _find_program(name: str, folders: Sequence[Path]) -> Path:
    """Return a program's path. Skip the test without it, or fail in CI."""
    # As root, /usr/sbin/rabbitmq-server would change to another user, so its own folder is first.
    found = next((each / name for each in folders if (each / name).is_file()), None)
    found = found or (Path(which) if (which := shutil.which(name)) else None)
    if found is not None:
        return found
    if os.environ.get("CI") == "1":
        pytest.fail(f"{name} is not installed")
    return pytest.skip(f"{name} is not installed")
