"""Inputs that the worker fetches from URLs of a misbehaving server on loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contract.catalogue import Catalogue
from contract.guard import AddressGuard
from contract.messages import PayloadUrl
from worker.errors import InvalidInput, UnsupportedMediaType
from worker.inputs import urls
from worker.inputs.urls import UrlFetcher
from worker.net.guarded_http import GuardedHttp, Limits

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
NOOP = Catalogue.load().model("noop")
CLASSIFIER = Catalogue.load().model("classifier")


@contextmanager
def answering(data: bytes, *, hangs: bool = False) -> Iterator[str]:
    """Yield the URL of a server that answers a single connection with these bytes.

    If `hangs` is true, the server then sends one byte at a time without end.
    """
    released = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)
                # One byte at a time: each read is within its own time limit.
                while hangs and not released.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/x"
        finally:
            released.set()
            thread.join(10)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def fetcher() -> UrlFetcher:
    return UrlFetcher(GuardedHttp(AddressGuard("127.0.0.1")))


@pytest.mark.parametrize(
    ("announced", "header", "body", "found"),
    [
        (None, "content-type: text/html", PNG, "image/png"),
        (None, "content-type: text/plain; charset=utf-8", b"hello", "text/plain"),
        (None, "x: y", b"\x01\x02", "application/octet-stream"),
        ("image/png", "content-type: text/html", PNG, "image/png"),
    ],
)
def test_a_media_type_in_the_job_takes_precedence_over_the_detected_and_the_server_type(
    fetcher: UrlFetcher, announced: str | None, header: str, body: bytes, found: str
) -> None:
    with answering(http(body, header)) as url:
        assert fetcher.fetch(PayloadUrl(url, announced), NOOP) == (body, found)


@pytest.mark.parametrize(
    ("announced", "body"), [("image/jpeg", PNG), ("application/json", b"{"), (None, b"%PDF-1.7")]
)
def test_an_input_whose_bytes_contradict_the_media_type_is_refused(
    fetcher: UrlFetcher, announced: str | None, body: bytes
) -> None:
    with answering(http(body)) as url, pytest.raises(UnsupportedMediaType):
        fetcher.fetch(PayloadUrl(url, announced), NOOP)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"", status="404 Not Found"), "status 404"),
        (http(b"abc", "content-length: 10"), "sent an invalid response"),
        (b"nonsense\r\n\r\n", "sent an invalid response"),
        (b"", "sent an invalid response"),
        (http(b"", "location: http://10.0.0.1/", status="302 Found"), "public internet"),
        (http(b"", "location: file:///etc/passwd", status="302 Found"), "must be https"),
        (http(b"", "location: http://[::1", status="302 Found"), "is refused|not a valid URL"),
        (http(b"x" * (CLASSIFIER.max_input_bytes + 1)), "is too large"),
        *[
            (http(PNG, *lengths), "sent an invalid response")
            for lengths in (
                (f"content-length: {len(PNG)}", f"content-length: {len(PNG) - 8}"),
                (f"content-length: {len(PNG)}", f"content-length: {len(PNG)}"),
                (f"content-length: {len(PNG)}, {len(PNG) - 8}",),
                (f"content-length: +{len(PNG)}",),
                ("content-length: -1",),
            )
        ],
        (
            http(b"4\r\nabcd\r\n0\r\n\r\n", "content-length: 4", "transfer-encoding: chunked"),
            "sent an invalid response",
        ),
    ],
)
def test_the_refusal_of_an_unusable_response_from_an_input_url_states_the_reason(
    fetcher: UrlFetcher, answer: bytes, said: str
) -> None:
    with answering(answer) as url, pytest.raises(InvalidInput, match=said):
        fetcher.fetch(PayloadUrl(url), CLASSIFIER)


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\n", http(b"abc", "content-length: 900")]
)
def test_an_input_from_a_hanging_server_is_refused_after_the_time_limit(
    fetcher: UrlFetcher, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "LIMIT_SECONDS", 0.2)
    with (
        answering(begun, hangs=True) as url,
        pytest.raises(InvalidInput, match="did not answer in time"),
    ):
        fetcher.fetch(PayloadUrl(url), NOOP)


def test_an_input_from_an_unreachable_server_is_refused(fetcher: UrlFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    with pytest.raises(InvalidInput, match="sent an invalid response"):
        fetcher.fetch(PayloadUrl(url), NOOP)


def test_the_request_for_an_input_url_is_sent_to_the_checked_ip_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second look-up of the name could return an address inside the network."""
    asked: list[str] = []

    def look_up(host: str, port: int, **rest: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with answering(http(b"hello")) as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        original = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *a, **k: (
                look_up(host, port) if host == "name.test" else original(host, *a, **k)
            ),
        )
        outbound = GuardedHttp(AddressGuard("127.0.0.1"))
        answer = outbound.exchange("GET", f"http://name.test:{port}/", {}, None, Limits(100, 5.0))
    assert answer.body == b"hello"
    assert asked == ["name.test"]
