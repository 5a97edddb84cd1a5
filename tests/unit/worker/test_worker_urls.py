"""Test downloads of inputs from URLs, including downloads from a faulty server on loopback."""

import socket
import threading
from mmap import mmap

import pytest

from contract.catalogue import Catalogue
from contract.guard import AddressGuard, Resolver
from contract.messages import PayloadUrl
from tests.unit.worker.servers import answering, http
from worker.errors import InvalidInput, LookUpsBusy, UnsupportedMediaType
from worker.inputs.urls import UrlFetcher

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
NOOP = Catalogue.load().model("noop")
CLASSIFIER = Catalogue.load().model("classifier")


@pytest.fixture
def fetcher() -> UrlFetcher:
    return UrlFetcher(AddressGuard("127.0.0.1"), Resolver())


@pytest.mark.parametrize(
    ("announced", "header", "body", "found"),
    [
        (None, "content-type: text/html", PNG, "image/png"),
        (None, "content-type: text/plain; charset=utf-8", b"hello", "text/plain"),
        (None, "x: y", b"\x01\x02", "application/octet-stream"),
        ("image/png", "content-type: text/html", PNG, "image/png"),
    ],
)
def test_type_of_the_job_overrides_bytes_and_header(
    fetcher: UrlFetcher, announced: str | None, header: str, body: bytes, found: str
) -> None:
    with answering(http(body, header)) as url:
        assert fetcher.fetch_url(PayloadUrl(url, announced), NOOP) == (body, found)


def test_large_response_is_mapped_from_a_file(fetcher: UrlFetcher) -> None:
    body = PNG + bytes(3 * 1024 * 1024)
    with answering(http(body)) as url:
        data, media_type = fetcher.fetch_url(PayloadUrl(url), NOOP)
    assert isinstance(data, mmap)
    assert (data[:], media_type) == (body, "image/png")


@pytest.mark.parametrize(
    ("announced", "body"), [("image/jpeg", PNG), ("application/json", b"{"), (None, b"%PDF-1.7")]
)
def test_bytes_against_the_media_type_are_refused(
    fetcher: UrlFetcher, announced: str | None, body: bytes
) -> None:
    with answering(http(body)) as url, pytest.raises(UnsupportedMediaType):
        fetcher.fetch_url(PayloadUrl(url, announced), NOOP)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"", status="404 Not Found"), "status 404"),
        (http(b"abc", "content-length: 10"), "sent an invalid response"),
        (b"nonsense\r\n\r\n", "sent an invalid response"),
        (b"", "sent an invalid response"),
        (http(b"", "location: http://10.0.0.1/", status="302 Found"), "public internet"),
        (http(b"", "location: file:///etc/passwd", status="302 Found"), "must begin with https"),
        (http(b"", "location: http://[::1", status="302 Found"), "is refused|not a valid URL"),
        (http(b"x" * (CLASSIFIER.max_url_bytes + 1)), "is too large"),
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
def test_refusal_of_a_response_states_the_reason(
    fetcher: UrlFetcher, answer: bytes, said: str
) -> None:
    with answering(answer) as url, pytest.raises(InvalidInput, match=said):
        fetcher.fetch_url(PayloadUrl(url), CLASSIFIER)


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\n", http(b"abc", "content-length: 900")]
)
def test_hanging_server_is_refused_after_the_limit(begun: bytes) -> None:
    fetcher = UrlFetcher(AddressGuard("127.0.0.1"), Resolver(), limit_seconds=0.2)
    with (
        answering(begun, hangs=True) as url,
        pytest.raises(InvalidInput, match="did not answer in time"),
    ):
        fetcher.fetch_url(PayloadUrl(url), NOOP)


def test_limit_covers_all_redirects() -> None:
    """Each redirect takes 8 s on the test's clock, so the limit of 20 s ends the fourth request."""
    seconds = iter((0, 0, 8, 16, 24))
    fetcher = UrlFetcher(AddressGuard("127.0.0.1"), Resolver(), 20.0, lambda: next(seconds))
    with (
        answering(http(b"", "location: /y", status="302 Found")) as url,
        pytest.raises(InvalidInput, match="did not answer in time"),
    ):
        fetcher.fetch_url(PayloadUrl(url), NOOP)
    assert list(seconds) == []


def test_dead_dns_of_one_model_delays_no_other() -> None:
    answered = threading.Event()

    def look_up(host: str, port: int) -> list[str]:
        if "dead" in host:
            answered.wait(30)
        return ["127.0.0.1"]

    resolver = Resolver(look_up, max_count_of_a_share=16)
    fetcher = UrlFetcher(AddressGuard("127.0.0.1"), resolver, limit_seconds=0.05)
    for number in range(16):
        with pytest.raises(InvalidInput, match="did not answer in time"):
            fetcher.fetch_url(PayloadUrl(f"http://{number}.dead.test/"), NOOP)
    # The job is tried again later, because its own URL may be fine.
    with pytest.raises(LookUpsBusy):
        fetcher.fetch_url(PayloadUrl("http://good.test/"), NOOP)
    with answering(http(PNG)) as url:
        found = UrlFetcher(AddressGuard("127.0.0.1"), resolver).fetch_url(
            PayloadUrl(url.replace("127.0.0.1", "good.test")), CLASSIFIER
        )
    assert found == (PNG, "image/png")
    answered.set()


def test_unreachable_server_is_refused(fetcher: UrlFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    with pytest.raises(InvalidInput, match="sent an invalid response"):
        fetcher.fetch_url(PayloadUrl(url), NOOP)


def test_request_goes_to_the_checked_address() -> None:
    """If the host were looked up again after the check, DNS could return a private address."""
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    fetcher = UrlFetcher(AddressGuard("127.0.0.1"), Resolver(look_up))
    with answering(http(b"hello")) as url:
        found = fetcher.fetch_url(PayloadUrl(url.replace("127.0.0.1", "name.test")), NOOP)
    assert (found[0], asked) == (b"hello", ["name.test"])
