"""An HTTP server that replaces the gateway, and sends scripted responses to workers."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from contract.messages import JobReply, decode_reply
from contract.names import GATHERED_REPLIES_PATH
from tests.http_server import Request, Response, serve_http


class Gateway:
    """An HTTP server that records the requests of workers and sends scripted responses.

    Workers send a job's reply by POST. They ask by GET whether a job must still run, and report
    progress by PUT.

    Attributes:
        answers: The statuses of the responses to the next POST requests of a job, by job id. A job
            without an entry gets 202 for its first reply and 410 for each later reply. The status 0
            closes the connection without a response.
        after_posts: A number N and a function. The function is called after the server has
            received the Nth POST request, and before it sends the response.
        asked_status: The status of the responses to GET and PUT requests, by job id. A job whose
            reply was accepted gets 410 instead.
        held: The job whose requests wait for `may_answer`; then `is_holding` is set.
        gathers: Whether the server has the route for several replies.
        gathered: The number of replies in each request to that route.
        meeting: A barrier, or None. With a barrier, GET and PUT requests are answered only when as
            many of them wait as the barrier requires.
    """

    def __init__(self) -> None:
        self.host = ""
        self.answers: dict[str, list[int]] = defaultdict(list)
        self.asked_status: dict[str, int] = defaultdict(lambda: 200)
        self.posts: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.meeting: threading.Barrier | None = None
        self.replies: dict[str, list[JobReply]] = defaultdict(list)
        self.traceparents: dict[str, str] = {}
        self.connections = 0
        self.held = ""
        self.is_holding, self.may_answer = threading.Event(), threading.Event()
        self.gathers = True
        self.gathered: list[int] = []
        self.after_posts: tuple[int, Callable[[], None]] | None = None
        self.changed = threading.Condition()

    def url(self, job_id: str) -> str:
        return f"http://{self.host}/v1/jobs/{job_id}/reply?token=secret-token"

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until `condition` returns True. This function is called after each request."""
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise AssertionError(
                    f"condition not met in {seconds} s; last posts: {self.posts[-20:]}"
                )

    def taken(self, job_id: str) -> JobReply:
        self.wait_for(lambda: bool(self.replies[job_id]))
        assert len(self.replies[job_id]) == 1
        return self.replies[job_id][0]

    def answer(self, request: Request) -> Response | None:
        if request.path == GATHERED_REPLIES_PATH:
            return self.answer_gathered(request)
        address = urlsplit(request.path)
        assert "token=secret-token" in address.query
        job_id = address.path.split("/")[3]
        self.connections = max(self.connections, request.connection)
        if job_id == self.held:
            self.is_holding.set()
            assert self.may_answer.wait(10)
        if request.method == "POST":
            self.traceparents[job_id] = request.headers.get("traceparent", "")
            status = self.post(job_id, request.body)
        else:
            status = self.get(job_id)
        is_redirect = status in (301, 302, 307, 308)
        headers = {"location": self.url("elsewhere")} if is_redirect else {}
        return Response(status, headers=headers) if status else None

    def answer_gathered(self, request: Request) -> Response | None:
        """Answer a request with several replies, each as if it were sent alone.

        If one of them has the status 0, the connection is closed.
        """
        self.connections = max(self.connections, request.connection)
        if not self.gathers:
            return Response(404)
        lines = request.body.split(b"\n")
        with self.changed:
            self.gathered.append(len(lines) // 2)
        found = []
        for address, body in zip(lines[::2], lines[1::2], strict=True):
            job_id, _, query = address.decode().partition("?")
            assert "token=secret-token" in query
            found.append(self.post(job_id, body))
        if 0 in found:
            return None
        return Response(200, json.dumps([{"status": status} for status in found]).encode())

    def post(self, job_id: str, body: bytes) -> int:
        with self.changed:
            answers = self.answers[job_id]
            status = answers.pop(0) if answers else 410 if self.replies[job_id] else 202
            self.posts.append((job_id, status))
            if status == 202:
                self.replies[job_id].append(decode_reply(body))
            if self.after_posts is not None and self.after_posts[0] == len(self.posts):
                self.after_posts[1]()
            self.changed.notify_all()
            return status

    def get(self, job_id: str) -> int:
        if self.meeting is not None:
            self.meeting.wait(10)
        with self.changed:
            self.asked.append(job_id)
            self.changed.notify_all()
            return 410 if self.replies[job_id] else self.asked_status[job_id]


@contextmanager
def run_gateway(port: int = 0) -> Iterator[Gateway]:
    gateway = Gateway()
    with serve_http(gateway.answer, port, is_keeping_alive=True) as url:
        gateway.host = urlsplit(url).netloc
        yield gateway
