"""Test that the lines of a batch share one answer to the question whether they are wanted."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contract.messages import ReplyUrl
from tests.unit.worker.received import locked_message, received_job
from worker.pipeline.prepare import BatchChecks, CancellationCheck, RetryPolicy
from worker.pipeline.receive import ReceivedJob
from worker.replies import GatewayClient


@dataclass
class Gateway:
    """An HTTP server that answers each check, and notes its path."""

    status: int = 200
    code: str = ""
    cancelled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, job_id: str) -> str:
        return f"http://127.0.0.1:{self.port}/v1/jobs/{job_id}/reply?token=t"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            content = {"status": "wanted", "cancelled": made.cancelled, "code": made.code}
            data = json.dumps(content).encode()
            self.send_response(made.status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


class Checks:
    """The checks of a worker, at a time that the test sets."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.now = 0.0
        client = GatewayClient(frozenset({f"127.0.0.1:{gateway.port}"}))
        self.batches = BatchChecks(client, lambda: self.now)

    def is_wanted(self, job_id: str, batch: str = "one") -> bool | None:
        return self.batches.is_wanted(batch, job_id, self.gateway.url(job_id))


@pytest.fixture
def checks(gateway: Gateway) -> Checks:
    return Checks(gateway)


def test_lines_share_an_answer_for_a_second(checks: Checks) -> None:
    assert [checks.is_wanted(f"job{number}") for number in range(3)] == [True] * 3
    assert checks.gateway.asked == ["/v1/jobs/job0/reply?token=t&batch=true"]
    checks.now = 0.9
    assert not checks.batches.must_ask("one")
    checks.now = 1.0
    assert checks.batches.must_ask("one")
    assert checks.is_wanted("job4")
    assert len(checks.gateway.asked) == 2


def test_job_that_the_gateway_does_not_know_may_run(gateway: Gateway) -> None:
    client, url = GatewayClient(frozenset({f"127.0.0.1:{gateway.port}"})), gateway.url("job")
    gateway.status, gateway.code = 404, "unknown-job"
    assert client.is_wanted(url)
    # What stands in front of a gateway that is being replaced may answer 404, too.
    gateway.code = ""
    assert client.is_wanted(url) is None


def test_each_batch_is_asked_for(checks: Checks) -> None:
    checks.is_wanted("a", "one")
    checks.is_wanted("b", "two")
    assert len(checks.gateway.asked) == 2


def test_cancelled_batch_stops_all_lines(checks: Checks) -> None:
    checks.gateway.status = 410
    assert [checks.is_wanted(each) for each in ("a", "b")] == [False, False]
    assert len(checks.gateway.asked) == 1


def test_cancelled_line_stops_alone(checks: Checks) -> None:
    checks.gateway.cancelled = ["b"]
    assert [checks.is_wanted(each) for each in ("a", "b", "c")] == [True, False, True]


def test_failed_request_is_shared_too(checks: Checks) -> None:
    checks.gateway.status = 503
    assert [checks.is_wanted(each) for each in ("a", "b")] == [None, None]
    assert len(checks.gateway.asked) == 1
    checks.gateway.status = 200
    checks.now = 1.0
    assert checks.is_wanted("a")


def test_threads_wait_for_one_request(checks: Checks) -> None:
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(checks.is_wanted, map(str, range(64)))) == {True}
    assert len(checks.gateway.asked) == 1


def line(gateway: Gateway, job_id: str, delivery_count: int = 0) -> ReceivedJob:
    delivery = locked_message(job_id, delivery_count=delivery_count)
    job = received_job(delivery, reply_to=ReplyUrl(gateway.url(job_id)))
    return replace(job, request=replace(job.request, batch="one"))


def test_redelivered_line_asks_for_itself(gateway: Gateway) -> None:
    client = GatewayClient(frozenset({f"127.0.0.1:{gateway.port}"}))
    check = CancellationCheck(client, RetryPolicy(threading.Event()))
    assert check.is_wanted(line(gateway, "a"))
    assert check.is_wanted(line(gateway, "b"))
    again = line(gateway, "c", delivery_count=1)
    assert check.is_wanted(again)
    assert gateway.asked == [
        "/v1/jobs/a/reply?token=t&batch=true",
        "/v1/jobs/c/reply?token=t",
    ]
    assert check.is_wanted(again)
    assert len(gateway.asked) == 2
    gateway.status = 410
    ended = line(gateway, "d", delivery_count=1)
    assert check.is_wanted(ended) is False
