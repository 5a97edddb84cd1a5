"""Test malformed HTTP requests, clients that disconnect, and clients that send endless requests."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from blobs_tests.sdk.blob_servers import Server, run_emulator, signature


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_emulator(tmp_path_factory.mktemp("wire")) as server:
        signed = httpx.put(f"{server.url}/box?restype=container&{signature()}")
        assert signed.status_code == 201
        yield server


def exchange(server: Server, data: bytes, *, hang_up: bool = True) -> bytes:
    """Send `data` on a new TCP connection, and return the bytes that the server sends.

    Stop reading when the server closes the connection, or sends no bytes for 2 seconds. If
    `hang_up` is True, close the sending direction of the connection before reading.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as connection:
        try:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionError):
            pass
        return received


def assert_alive(server: Server) -> None:
    body = b"still here"
    url = f"{server.url}/box/alive?{signature()}"
    put = httpx.put(url, content=body, headers={"x-ms-blob-type": "BlockBlob"})
    assert put.status_code == 201
    assert httpx.get(url).content == body


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /devstoreaccount1/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /devstoreaccount1/box HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(emulator: Server, data: bytes) -> None:
    answer = exchange(emulator, data)
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert_alive(emulator)


def test_service_survives_very_long_headers(
    emulator: Server,
) -> None:
    for head in (b"GET /" + b"a" * 2_000_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000):
        exchange(emulator, head, hang_up=False)
    many = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    exchange(emulator, b"GET / HTTP/1.1\r\n" + many, hang_up=False)
    assert_alive(emulator)


def test_damaged_request_gets_neither_2xx_nor_5xx(
    emulator: Server,
) -> None:
    source = random.Random(20260301)
    valid = (
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nHost: localhost\r\nx-ms-range: bytes=0-1\r\n\r\n"
    )
    for _ in range(200):
        data = bytearray(valid)
        for _ in range(source.randrange(1, 8)):
            data[source.randrange(len(data))] = source.randrange(256)
        assert not exchange(emulator, bytes(data)).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert_alive(emulator)


def test_interrupted_upload_creates_no_blob(emulator: Server) -> None:
    for sent in (0, 10, 2_000_000):
        head = (
            f"PUT /devstoreaccount1/box/torn?{signature()} HTTP/1.1\r\nHost: localhost\r\n"
            f"x-ms-blob-type: BlockBlob\r\nContent-Length: {sent + 10}\r\n\r\n"
        )
        exchange(emulator, head.encode() + b"x" * sent)
        assert httpx.get(f"{emulator.url}/box/torn?{signature()}").status_code == 404


def test_connection_survives_a_refused_upload(
    emulator: Server,
) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            answer = client.put(f"{emulator.url}/box/b", content=b"x" * 3_000_000)
            assert answer.status_code == 401
        assert client.get(f"{emulator.url}/box/b?{signature()}").status_code == 404


def test_expect_100_continue_is_answered_first(
    emulator: Server,
) -> None:
    head = (
        f"PUT /devstoreaccount1/box/patient?{signature()} HTTP/1.1\r\nHost: localhost\r\n"
        "x-ms-blob-type: BlockBlob\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"body")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")


def test_pipelined_requests_are_answered_in_order(emulator: Server) -> None:
    one = (
        f"GET /devstoreaccount1/box/none?{signature()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    two = one.replace(b"/box/none", b"/box", 1).replace(b"box?", b"box?restype=container&", 1)
    answer = b""
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=30) as connection:
        connection.sendall(one + two + one)
        while len(statuses := re.findall(rb"HTTP/1.1 (\d{3})", answer)) < 3:
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    assert statuses == [b"404", b"200", b"404"]


def test_blob_can_be_deleted_during_a_download(emulator: Server, tmp_path: Path) -> None:
    url = f"{emulator.url}/box/large?{signature()}"
    content = b"x" * 20_000_000
    put = httpx.put(url, content=content, headers={"x-ms-blob-type": "BlockBlob"})
    assert put.status_code == 201
    with httpx.stream("GET", url) as response:
        next(response.iter_bytes(1000))
        assert httpx.delete(url).status_code == 202
    assert_alive(emulator)
