"""Test the worker's gateway client with an HTTP server that answers, refuses or disconnects."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from contract.messages import InlineJson, JobReply, encode_reply
from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from worker.errors import ReplyForbidden, ReplyRefused, ReplyUndelivered
from worker.replies import GatewayClient

SECONDS = 10.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = encode_reply(JobReply("job", InlineJson({"labels": []}), NOW, NOW))


def limited_tries(tries: int, waits: list[float] | None = None) -> Callable[[float], bool]:
    """Return a function that the client calls between two tries, and that does not wait."""
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
def replies(gateway: Gateway) -> Iterator[GatewayClient]:
    made = GatewayClient(frozenset({gateway.host}))
    yield made
    made.close()


@pytest.mark.parametrize("status", [200, 202, 204, 410])
def test_accepted_reply_is_not_repeated(
    gateway: Gateway, replies: GatewayClient, status: int
) -> None:
    gateway.answers["job"] = [status]
    replies.send_reply(gateway.url("job"), BODY, limited_tries(0))
    assert gateway.posts == [("job", status)]


def test_head_and_body_of_a_reply_arrive_together() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        server.settimeout(SECONDS)
        port = server.getsockname()[1]
        client = GatewayClient(frozenset({f"127.0.0.1:{port}"}))
        url = f"http://127.0.0.1:{port}/v1/jobs/job/reply?token=t"
        sent = threads.submit(client.send_reply, url, BODY, limited_tries(0))
        connection, _ = server.accept()
        with connection:
            connection.settimeout(SECONDS)
            assert connection.recv(65536).endswith(b"\r\n\r\n" + BODY)
            # tcpi_data_segs_in of linux/tcp.h: each send of the client is a segment.
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            assert struct.unpack_from("=I", info, 152) == (1,)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
            assert sent.result(SECONDS)
        client.close()


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503, 0])
def test_temporary_failure_is_repeated(
    gateway: Gateway, replies: GatewayClient, status: int
) -> None:
    gateway.answers["job"] = [status, status, 202]
    waits: list[float] = []
    replies.send_reply(gateway.url("job"), BODY, limited_tries(9, waits))
    assert [answer for _, answer in gateway.posts] == [status, status, 202]
    assert len(waits) == 2
    assert waits[1] > waits[0] / 2


def test_stopped_retries_are_not_repeated(gateway: Gateway, replies: GatewayClient) -> None:
    gateway.answers["job"] = [503] * 99
    with pytest.raises(ReplyUndelivered, match="503"):
        replies.send_reply(gateway.url("job"), BODY, limited_tries(5))
    assert len(gateway.posts) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422, 302, 307])
def test_permanent_refusal_is_not_repeated(
    gateway: Gateway, replies: GatewayClient, status: int
) -> None:
    gateway.answers["job"] = [status]
    with pytest.raises(ReplyRefused, match=str(status)):
        replies.send_reply(gateway.url("job"), BODY, limited_tries(9))
    assert gateway.posts == [("job", status)], "the client sent the reply again"


def test_unreachable_gateway_is_undelivered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    replies = GatewayClient(frozenset({host}))
    url = f"http://{host}/v1/jobs/a/reply"
    with pytest.raises(ReplyUndelivered, match="NewConnectionError"):
        replies.send_reply(url, BODY, limited_tries(2))
    assert replies.is_wanted(url) is None, "the answer is unknown"
    assert replies.send_progress(url, BODY), "the answer is unknown, so the job continues"
    replies.close()


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(200, True), (410, False), (404, None), (429, None), (500, None), (401, True)],
)
def test_only_status_410_makes_a_job_unwanted(
    gateway: Gateway, replies: GatewayClient, status: int, wanted: bool | None
) -> None:
    gateway.asked_status["job"] = status
    assert replies.is_wanted(gateway.url("job")) is wanted
    assert replies.send_progress(gateway.url("job"), BODY) is (wanted is not False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/v1/jobs/1/reply",
        "http://127.0.0.1/v1/jobs/1/reply",
        "http://gateway.example:80/v1/jobs/1/reply",
        "https://other.example/v1/jobs/1/reply",
        "https://gateway.example:8443/v1/jobs/1/reply",
        "https://user@gateway.example/v1/jobs/1/reply",
        "https://gateway.example@other.example/v1/jobs/1/reply",
        "https://gateway.example.other.example/v1/jobs/1/reply",
        "https://other.example\\@gateway.example/v1/jobs/1/reply",
        "https://gateway.example/",
        "https://gateway.example/v1/models/noop/jobs",
        "https://gateway.example/v1/admin/dead-letters/noop/a/redrive",
        "https://gateway.example/v1/jobs/1",
        "https://gateway.example/v1/jobs/1/reply/",
        "https://gateway.example/v1/jobs/1/reply/../../../models",
        "https://gateway.example/v1/jobs/../reply",
        "https://gateway.example/v1/jobs/a%2Fb/reply",
        "https://gateway.example/v1/jobs//reply",
        "https://gateway.example/other/v1/jobs/1/reply",
        "ftp://gateway.example/",
        "file:///etc/passwd",
        "//gateway.example/",
        "gateway.example",
        "https://[::1",
        "https://\x00/",
        "",
    ],
)
def test_host_outside_the_allow_list_is_refused(url: str) -> None:
    replies = GatewayClient(frozenset({"gateway.example:443", "gateway.example:80"}))
    with pytest.raises(ReplyForbidden):
        replies.check_reply_url(url)
    replies.close()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Gateway.Example/v1/jobs/1/reply?token=t", "gateway.example:443"),
        ("https://gateway.example:8443/v1/jobs/a.b-c/progress", "gateway.example:8443"),
        ("http://localhost:7071/v1/jobs/1/reply", "localhost:7071"),
        ("http://[::1]:7071/v1/jobs/1/reply", "[::1]:7071"),
        ("http://127.0.0.2:80/v1/jobs/1/reply", "127.0.0.2:80"),
        ("https://apim.example/infer/v1/jobs/1/reply?token=t", "apim.example:443/infer"),
    ],
)
def test_host_in_the_allow_list_is_accepted(url: str, host: str) -> None:
    replies = GatewayClient(frozenset({host}))
    replies.check_reply_url(url)
    replies.close()


def test_four_threads_open_four_connections(gateway: Gateway, replies: GatewayClient) -> None:
    def post(thread: int) -> None:
        for number in range(25):
            job_id = f"job-{thread}-{number}"
            replies.send_reply(gateway.url(job_id), BODY, limited_tries(0))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(gateway.posts) == 100
    assert gateway.connections <= 4


@pytest.fixture
def patient(gateway: Gateway) -> Iterator[GatewayClient]:
    """Yield a client whose replies wait for the request before them as long as it takes."""
    made = GatewayClient(frozenset({gateway.host}), gather_seconds=SECONDS)
    yield made
    made.close()


def send_while_busy(
    gateway: Gateway, replies: GatewayClient, jobs: list[str]
) -> dict[str, Future[bool]]:
    """Send the reply to the job `first`, and meanwhile those to `jobs`; return all outcomes."""
    gateway.held = "first"
    with ThreadPoolExecutor(len(jobs) + 1) as threads:

        def send(job_id: str) -> Future[bool]:
            url = gateway.url(job_id)
            return threads.submit(replies.send_reply, url, BODY, limited_tries(3))

        sent = {"first": send("first")}
        assert gateway.is_holding.wait(SECONDS)
        for number, job_id in enumerate(jobs, 1):
            sent[job_id] = send(job_id)
            ends_at = time.monotonic() + SECONDS
            while replies.waiting_count < number:
                assert time.monotonic() < ends_at
        gateway.may_answer.set()
    return sent


def test_replies_that_are_ready_together_are_sent_together(
    gateway: Gateway, patient: GatewayClient
) -> None:
    sent = send_while_busy(gateway, patient, ["a", "b", "c"])
    assert all(each.result() for each in sent.values())
    assert gateway.gathered == [3]
    assert sorted(gateway.posts) == [(job_id, 202) for job_id in ("a", "b", "c", "first")]


def test_only_failed_replies_of_a_request_are_repeated(
    gateway: Gateway, patient: GatewayClient
) -> None:
    gateway.answers |= {"b": [503, 202], "c": [401], "d": [410]}
    sent = send_while_busy(gateway, patient, ["a", "b", "c", "d"])
    assert sent["a"].result()
    assert sent["b"].result()
    assert not sent["d"].result()
    with pytest.raises(ReplyRefused, match="401"):
        sent["c"].result()
    expected = {("first", 202), ("a", 202), ("b", 503), ("b", 202), ("c", 401), ("d", 410)}
    assert len(gateway.posts) == 6
    assert set(gateway.posts) == expected


def test_lost_answer_repeats_all_replies_of_the_request(
    gateway: Gateway, patient: GatewayClient
) -> None:
    gateway.answers["b"] = [0, 202]
    sent = send_while_busy(gateway, patient, ["a", "b", "c"])
    # The gateway had recorded the first and the third before it died.
    assert {job_id: each.result() for job_id, each in sent.items()} == {
        "first": True,
        "a": False,
        "b": True,
        "c": False,
    }
    assert {job_id: len(found) for job_id, found in gateway.replies.items()} == {
        "first": 1,
        "a": 1,
        "b": 1,
        "c": 1,
    }


def test_older_gateway_gets_each_reply_alone(gateway: Gateway, patient: GatewayClient) -> None:
    gateway.gathers = False
    sent = send_while_busy(gateway, patient, ["a", "b", "c"])
    assert all(each.result() for each in sent.values())
    assert sorted(gateway.posts) == [(job_id, 202) for job_id in ("a", "b", "c", "first")]
    assert gateway.gathered == [], "the server has no route for several replies"


def test_slow_request_delays_other_replies_briefly(
    gateway: Gateway, replies: GatewayClient
) -> None:
    gateway.held = "slow"
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(replies.send_reply, gateway.url("slow"), BODY, limited_tries(0))
        assert gateway.is_holding.wait(SECONDS)
        assert replies.send_reply(gateway.url("other"), BODY, limited_tries(0))
        assert gateway.posts == [("other", 202)]
        gateway.may_answer.set()
        assert slow.result(SECONDS)


def test_errors_contain_no_token(gateway: Gateway, replies: GatewayClient) -> None:
    gateway.answers["job"] = [401]
    with pytest.raises(ReplyRefused) as refusal:
        replies.send_reply(gateway.url("job"), BODY, limited_tries(0))
    assert "secret" not in repr(refusal.value)
