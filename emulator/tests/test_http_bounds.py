"""Test limits that all emulator services have: allowed hosts, time limits and file permissions."""

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from command_process import running
from emulator.functions.asgi import (
    ClientGone,
    Listener,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from emulator.hosts import HostRules, parse_host
from emulator.program import HttpLimits, bind, make_private_directory, make_private_file
from local_ports import free_port

_APP = """
import azure.functions as func

app = func.FunctionApp()


@app.route("hello", auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("hello")
"""
_HEAD_SECONDS = 1.0


@dataclass(frozen=True)
class Service:
    """A running service.

    A GET request to `path` gets a response with the HTTP status `status`. `data` is the service's
    data directory.
    """

    port: int
    path: str
    status: int
    data: Path

    def exchange(self, data: bytes, seconds: float = 10.0) -> bytes:
        """Send bytes on a new connection, and return all bytes that the service sends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            return read_all(connection)

    def get(self, *headers: str) -> bytes:
        head = "\r\n".join([f"GET {self.path} HTTP/1.1", *headers, "Connection: close"])
        return self.exchange(f"{head}\r\n\r\n".encode())


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def old_file(data: Path, name: str) -> None:
    """Create a file in `data` that all users can read, as older versions of the services did."""
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o755)
    (data / name).touch(mode=0o644)
    (data / name).chmod(0o644)


def start_blobs(folder: Path) -> tuple[Service, str, list[str]]:
    port = free_port()
    options = ["--port", str(port), "--data", str(folder)]
    old_file(folder, "index.sqlite3")
    return Service(port, "/devstoreaccount1", 405, folder), "blobs", options


def start_servicebus(folder: Path) -> tuple[Service, str, list[str]]:
    port, admin = free_port(), free_port()
    options = ["--port", str(port), "--admin-port", str(admin), "--data", str(folder)]
    old_file(folder, "servicebus.sqlite3")
    return Service(admin, "/health", 200, folder), "servicebus", options


def start_functions(folder: Path) -> tuple[Service, str, list[str]]:
    app = folder.parent / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text(_APP)
    port = free_port()
    options = ["--app", str(app), "--port", str(port), "--data", str(folder)]
    old_file(folder, "host.lock")
    return Service(port, "/api/hello", 200, folder), "functions", options


@pytest.fixture(scope="module", params=[start_blobs, start_servicebus, start_functions])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    prepare: Callable[[Path], tuple[Service, str, list[str]]] = request.param
    service, name, options = prepare(tmp_path_factory.mktemp("service") / "data")
    options += ["--head-timeout", str(_HEAD_SECONDS), "--allow-host", "Dev.example"]
    url = f"http://127.0.0.1:{service.port}{service.path}"
    previous = os.umask(0o022)
    try:
        with running(f"local-{name}", f"emulator.{name}", url, *options):
            yield service
    finally:
        os.umask(previous)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7071", "127.0.0.1:1", "127.1.2.3", "[::1]:80", "account.localhost"],
)
def test_loopback_host_is_accepted(service: Service, host: str) -> None:
    assert service.get(f"Host: {host}").startswith(b"HTTP/1.1 %d " % service.status)


@pytest.mark.parametrize("host", ["dev.example", "DEV.example.:8080"])
def test_allowed_host_is_accepted(service: Service, host: str) -> None:
    assert service.get(f"Host: {host}").startswith(b"HTTP/1.1 %d " % service.status)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7071", "localhost.evil.example", "0.0.0.0", "10.0.0.1", "[::]"],
)
def test_other_host_gets_421(service: Service, host: str) -> None:
    answer = service.get(f"Host: {host}")
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"HostNotAllowed" in answer
    assert b"--allow-host" in answer


@pytest.mark.parametrize("host", ["[", "localhost/", "a b", "user@localhost"])
def test_invalid_host_gets_400(service: Service, host: str) -> None:
    assert service.get(f"Host: {host}").startswith(b"HTTP/1.1 400 ")


def test_allowed_and_forbidden_host_is_refused(service: Service) -> None:
    answer = service.get("Host: localhost", "Host: evil.example")
    assert answer.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 "))


def test_two_body_lengths_are_refused(service: Service) -> None:
    for lengths in (
        "Content-Length: 3\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 3, 5",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
    ):
        head = f"PUT {service.path} HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n\r\nhello"
        assert service.exchange(head.encode()).startswith(b"HTTP/1.1 400 "), lengths


def test_incomplete_headers_are_closed_and_delay_nobody(
    service: Service,
) -> None:
    started_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        waiting = []
        for number in range(100):
            address = ("127.0.0.1", service.port)
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            if number % 2:
                connection.sendall(f"GET {service.path} HTTP/1.1\r\nHost: local".encode())
            waiting.append(connection)
        asked_at = time.monotonic()
        url = f"http://localhost:{service.port}{service.path}"
        assert httpx.get(url, timeout=10).status_code == service.status
        assert time.monotonic() - asked_at < 2.0
        for number, connection in enumerate(waiting):
            answer = read_all(connection)
            # A client that sent nothing gets no response.
            assert answer.startswith(b"HTTP/1.1 408 ") if number % 2 else answer == b""
    assert time.monotonic() - started_at < _HEAD_SECONDS + 4.0


def test_empty_lines_are_disconnected(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=0.2) as connection:
        # After a response, empty lines do not begin a request.
        connection.sendall(f"GET {service.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        closes_at = time.monotonic() + 8.0
        while is_open(connection):
            assert time.monotonic() < closes_at, "the connection stays open"
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"\r\n")


def is_open(connection: socket.socket) -> bool:
    """Read the bytes that have arrived, and return whether the connection is still open."""
    try:
        return connection.recv(65536) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


@contextlib.asynccontextmanager
async def echoing(limits: HttpLimits) -> AsyncIterator[tuple[str, int]]:
    """Run a server that responds with the body of each request, and yield its address."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive)
        except ClientGone:
            return
        await respond(send, 200, [(b"content-length", str(len(body)).encode())], body)

    with bind("127.0.0.1", 0) as bound:
        listener = Listener(application, [bound], limits)
        await listener.start()
        async with asyncio.timeout(10):
            yield bound.getsockname()
        await listener.stop()


async def test_incomplete_body_is_closed_and_delays_nobody() -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe"
    async with echoing(HttpLimits(body_silence_seconds=0.5)) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head)
        other_reader, other_writer = await asyncio.open_connection(*address)
        other_writer.write(head + b"llo")
        assert (await other_reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        assert await reader.read() == b""
        # The second connection is idle, not in a request, so it stays open.
        other_writer.write(head + b"llo")
        assert (await other_reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        for each in (writer, other_writer):
            each.close()


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("piece_bytes", [1000, 7])
async def test_request_for_http_2_keeps_its_body(body: bytes, piece_bytes: int) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + upgrade + body
    async with echoing(HttpLimits()) as address:
        reader, writer = await asyncio.open_connection(*address)
        for start in range(0, len(request), piece_bytes):
            writer.write(request[start : start + piece_bytes])
            await asyncio.sleep(0)
        answer = await reader.readuntil(b"hello")
        assert answer.startswith(b"HTTP/1.1 200 ")
        # The connection remains one of HTTP/1.1.
        writer.write(request)
        assert await reader.readuntil(b"hello") == answer
        writer.close()


def test_other_users_cannot_read_the_data(service: Service) -> None:
    assert stat.S_IMODE(service.data.stat().st_mode) == 0o700
    paths = list(service.data.rglob("*"))
    assert paths
    for path in paths:
        assert not path.stat().st_mode & 0o077, path


def test_sticky_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "of_others").touch(mode=0o644)
    make_private_directory(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert (tmp_path / "of_others").stat().st_mode & 0o077


def test_symbolic_links_target_keeps_its_mode(
    tmp_path: Path,
) -> None:
    target = tmp_path / "elsewhere"
    target.touch(mode=0o644)
    target.chmod(0o644)
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(target)
    make_private_directory(data)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_task_hub_elsewhere_is_private(
    tmp_path: Path,
) -> None:
    for name in ("hub.db", "hub.db-wal"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    make_private_file(tmp_path / "hub.db")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("authority", "name"),
    [("A.b:1", "a.b"), ("[::1]:2", "::1"), ("localhost.", "localhost"), ("[", None), ("", None)],
)
def test_parsed_host_is_a_name_or_none(authority: str, name: str | None) -> None:
    assert parse_host(authority) == name


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://dev.example:1", True),
        ("https://evil.example", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_allowed_origin_is_loopback_or_allowed_host(origin: str, is_allowed: bool) -> None:
    assert HostRules(["dev.example"]).allows_origin(origin) is is_allowed


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 202)],
)
def test_only_loopback_pages_use_the_admin_api(tmp_path: Path, origin: str, status: int) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text(
        "import azure.functions as func\napp = func.FunctionApp()\n"
        "@app.timer_trigger('timer', '0 0 1 1 * *')\ndef yearly(timer): pass\n"
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--app", str(app), "--port", str(port), "--data", str(tmp_path / "data")]
    with running("local-functions", "emulator.functions", f"{url}/admin/host/status", *options):
        answer = httpx.post(
            f"{url}/admin/functions/yearly",
            content="{}",
            headers={"origin": origin, "content-type": "text/plain"},
        )
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 200)],
)
def test_foreign_page_cannot_close_links(tmp_path: Path, origin: str, status: int) -> None:
    service, name, options = start_servicebus(tmp_path / "data")
    url = f"http://127.0.0.1:{service.port}"
    with running(f"local-{name}", f"emulator.{name}", f"{url}/health", *options):
        headers = {"origin": origin, "content-type": "text/plain"}
        answer = httpx.post(f"{url}/$emulator/detach", content="{}", headers=headers)
        assert answer.status_code == status


def other_ports(port: int) -> set[int]:
    """Return the other ports on which the child process with this port listens."""
    for process in psutil.Process().children():
        found = {
            each.laddr.port
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        }
        if port in found:
            return found - {port}
    raise AssertionError(f"no child process listens on port {port}")


def test_foreign_page_cannot_use_the_durable_port(tmp_path: Path) -> None:
    service, name, options = start_functions(tmp_path / "data")
    (tmp_path / "app" / "host.json").write_text(
        '{"version": "2.0", "extensionBundle": {"id": "a", "version": "[4.*, 5.0.0)"}}'
    )
    (tmp_path / "app" / "function_app.py").write_text(
        "import azure.durable_functions as df\napp = df.DFApp()\n"
        "@app.orchestration_trigger(context_name='context')\ndef waits(context): yield\n"
    )
    url = f"http://127.0.0.1:{service.port}"
    with running(f"local-{name}", f"emulator.{name}", f"{url}/admin/host/status", *options):
        (rpc_port,) = other_ports(service.port)
        start = f"http://127.0.0.1:{rpc_port}/durabletask/orchestrators/waits"
        foreign = httpx.post(start, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert httpx.post(start).status_code == 202
