"""Test the worker's health server over real sockets, with slow and hostile clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from worker.telemetry.health_server import HealthResponse, HealthServer, check_page

MANY = 40


def broken(accept: str) -> HealthResponse:
    raise RuntimeError("a page with a defect")


@pytest.fixture
def health() -> Iterator[HealthServer]:
    pages = {
        "/well": check_page(lambda: (True, {"n": 1})),
        "/ill": check_page(lambda: (False, {"reason": "draining"})),
        "/broken": broken,
        "/accept": lambda accept: HealthResponse(200, "text/plain", accept.encode()),
    }
    server = HealthServer("127.0.0.1", 0, pages, longest_seconds=0.3)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def get(health: HealthServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{health.server_port}{path}", headers=headers, timeout=5)


def connection(health: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", health.server_port), timeout=5)


def test_passed_check_is_200_and_failed_503(health: HealthServer) -> None:
    well = get(health, "/well?verbose")
    assert (well.status_code, well.json()) == (200, {"ok": True, "n": 1})
    ill = get(health, "/ill")
    assert (ill.status_code, ill.json()) == (503, {"ok": False, "reason": "draining"})
    assert get(health, "/accept", accept="text/plain;version=0.0.4").text.endswith("0.0.4")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8081", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("a.localhost", 200),
        ("evil.example:8081", 421),
        ("127.0.0.1.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_one_machine_answers_loopback_names_only(
    health: HealthServer, host: str, status: int
) -> None:
    assert get(health, "/well", host=host).status_code == status


def test_server_for_other_machines_answers_any_name() -> None:
    server = HealthServer("0.0.0.0", 0, {"/well": check_page(lambda: (True, {}))})
    server.start()
    try:
        assert get(server, "/well", host="10.1.2.3:8081").status_code == 200
    finally:
        server.shutdown()
        server.server_close()


def test_unknown_path_lists_the_known_paths(health: HealthServer) -> None:
    answer = get(health, "/")
    assert answer.status_code == 404
    assert answer.json() == {"paths": ["/accept", "/broken", "/ill", "/well"]}


def test_head_response_has_no_body(health: HealthServer) -> None:
    with connection(health) as client:
        client.sendall(b"HEAD /well HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert f"content-length: {len(get(health, '/well').content)}\r\n".encode() in answer
    assert answer.endswith(b"\r\n\r\n")


def test_check_that_raises_is_500(health: HealthServer) -> None:
    assert get(health, "/broken").status_code == 500
    assert get(health, "/well").status_code == 200


def test_only_get_and_head_are_allowed(health: HealthServer) -> None:
    answer = httpx.post(f"http://127.0.0.1:{health.server_port}/well", timeout=5)
    assert answer.status_code == 501


def test_silent_clients_block_nobody(health: HealthServer) -> None:
    silent = [connection(health) for _ in range(MANY)]
    try:
        assert get(health, "/well").status_code == 200
    finally:
        for one in silent:
            one.close()


def test_slow_clients_are_disconnected(health: HealthServer) -> None:
    with connection(health) as client:
        client.sendall(b"GET /well HTTP/1.1\r\nx-slow: ")
        # The header never ends: the server must not wait for it.
        assert client.recv(100) == b""
