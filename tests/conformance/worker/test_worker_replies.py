"""Replies against a real HTTP server that answers, refuses, hangs up or is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from contract.messages import InlineJson, JobReply, encode_reply
from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from worker.errors import ReplyForbidden, ReplyRefused, ReplyUndelivered
from worker.outcomes.replies import Replies

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = encode_reply(JobReply("job", InlineJson({"labels": []}), NOW, NOW))


def patience(tries: int, waits: list[float] | None = None) -> Callable[[float], bool]:
    """Sleeps not at all, and gives up after so many tries."""
    left = iter(range(tries))

    def wait(seconds: float) -> bool:
        if waits is not None:
            waits.append(seconds)
        return next(left, None) is not None

    return wait


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with run_gateway() as running:
        yield running


@pytest.fixture
def replies(gateway: Gateway) -> Iterator[Replies]:
    made = Replies(frozenset({gateway.host}))
    yield made
    made.close()


@pytest.mark.parametrize("status", [200, 202, 204, 410])
def test_taken_or_decided_already_is_done(gateway: Gateway, replies: Replies, status: int) -> None:
    gateway.answers["job"] = [status]
    replies.post(gateway.url("job"), BODY, patience(0))
    assert gateway.posts == [("job", status)]


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503, 0])
def test_what_may_mend_is_tried_again(gateway: Gateway, replies: Replies, status: int) -> None:
    gateway.answers["job"] = [status, status, 202]
    waits: list[float] = []
    replies.post(gateway.url("job"), BODY, patience(9, waits))
    assert [answer for _, answer in gateway.posts] == [status, status, 202]
    assert len(waits) == 2
    assert waits[1] > waits[0] / 2


def test_gives_up_with_the_lock(gateway: Gateway, replies: Replies) -> None:
    gateway.answers["job"] = [503] * 99
    with pytest.raises(ReplyUndelivered, match="503"):
        replies.post(gateway.url("job"), BODY, patience(5))
    assert len(gateway.posts) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422, 302, 307])
def test_what_cannot_mend_is_not_tried_again(
    gateway: Gateway, replies: Replies, status: int
) -> None:
    gateway.answers["job"] = [status]
    with pytest.raises(ReplyRefused, match=str(status)):
        replies.post(gateway.url("job"), BODY, patience(9))
    assert gateway.posts == [("job", status)], "no redirect was followed"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    replies = Replies(frozenset({host}))
    with pytest.raises(ReplyUndelivered, match="ConnectError"):
        replies.post(f"http://{host}/", BODY, patience(2))
    assert replies.is_wanted(f"http://{host}/") is None, "nobody can tell"
    assert replies.report(f"http://{host}/", BODY), "nobody can tell, so it goes on"
    replies.close()


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(200, True), (410, False), (404, None), (429, None), (500, None), (401, True)],
)
def test_asks_whether_a_job_is_wanted(
    gateway: Gateway, replies: Replies, status: int, wanted: bool | None
) -> None:
    gateway.asked_status["job"] = status
    assert replies.is_wanted(gateway.url("job")) is wanted
    assert replies.report(gateway.url("job"), BODY) is (wanted is not False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://127.0.0.1/",
        "http://gateway.example:80/",
        "https://other.example/",
        "https://gateway.example:8443/",
        "https://user@gateway.example/",
        "https://gateway.example@other.example/",
        "https://gateway.example.other.example/",
        "https://other.example\\@gateway.example/",
        "ftp://gateway.example/",
        "file:///etc/passwd",
        "//gateway.example/",
        "gateway.example",
        "https://[::1",
        "https://\x00/",
        "",
    ],
)
def test_replies_go_to_listed_hosts_alone(url: str) -> None:
    replies = Replies(frozenset({"gateway.example:443", "gateway.example:80"}))
    with pytest.raises(ReplyForbidden):
        replies.check(url)
    replies.close()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Gateway.Example/v1/jobs/1/reply?token=t", "gateway.example:443"),
        ("https://gateway.example:8443/", "gateway.example:8443"),
        ("http://localhost:7071/", "localhost:7071"),
        ("http://[::1]:7071/", "[::1]:7071"),
        ("http://127.0.0.2:80/", "127.0.0.2:80"),
    ],
)
def test_listed_hosts_are_reached(url: str, host: str) -> None:
    replies = Replies(frozenset({host}))
    replies.check(url)
    replies.close()


def test_many_threads_share_kept_connections(gateway: Gateway, replies: Replies) -> None:
    def post(thread: int) -> None:
        for number in range(25):
            job_id = f"job-{thread}-{number}"
            replies.post(gateway.url(job_id), BODY, patience(0))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(gateway.posts) == 100
    assert gateway.connections <= 4


def test_no_token_in_an_error(gateway: Gateway, replies: Replies) -> None:
    gateway.answers["job"] = [401]
    with pytest.raises(ReplyRefused) as refusal:
        replies.post(gateway.url("job"), BODY, patience(0))
    assert "secret" not in repr(refusal.value)
