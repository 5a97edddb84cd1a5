"""A gateway on loopback that returns scripted responses and records the requests."""

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB_ID = "01982f0c-0000-7000-8000-000000000001"


def job_document(status: str, **members: Any) -> dict[str, Any]:
    """Return the JSON document of a job, as the REST API returns it.

    `members` replace members of the document, or are added to it.
    """
    return {
        "id": JOB_ID,
        "model": "classifier",
        "status": status,
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": None,
        "finished_at": None,
        "deadline": "2026-01-02T03:05:05Z",
        "attempt": 1,
        "progress": None,
        "result": None,
        "error": None,
        "timing": {},
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "links": {"self": f"/v1/jobs/{JOB_ID}"},
        **members,
    }


SUCCEEDED = job_document(
    "succeeded",
    started_at="2026-01-02T03:04:06Z",
    finished_at="2026-01-02T03:04:07Z",
    result={
        "labels": [
            {"label": "Egyptian cat", "index": 285, "score": 0.75},
            {"label": "tiger cat", "index": 282, "score": 0.125},
            {"label": "tabby", "index": 281, "score": 0.01},
        ]
    },
    timing={"queued_ms": 4, "inference_ms": 21, "batch_size": 1, "total_ms": 39},
)


@dataclass(frozen=True)
class ScriptedResponse:
    """One scripted response of the gateway."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Close the connection before the end of the body.
    is_cut: bool = False


def timeline_document(**members: Any) -> dict[str, Any]:
    """Return the timeline of a job as a JSON object. The job's first delivery was lost.

    `members` replace members of this object, or are added to it.
    """
    steps = [
        ("accepted", 0.0, None),
        ("enqueued", 4.0, None),
        ("received", 1996.0, 2),
        ("batched", 100.0, 2),
        ("run", 1880.0, 2),
        ("final", 20.0, None),
    ]
    return {
        "id": JOB_ID,
        "model": "classifier",
        "status": "succeeded",
        "total_ms": 4000.0,
        "steps": [
            {
                "name": name,
                "at": "2026-03-01T12:00:00.000Z",
                "duration_ms": duration_ms,
                "share": duration_ms / 4000,
                "delivery": delivery,
                "is_beside": False,
                "is_adjusted": name == "received",
            }
            for name, duration_ms, delivery in steps
        ],
        "deliveries": [
            {"number": 1, "state": "lost", "worker": None, "device": None, "batch_size": None},
            {
                "number": 2,
                "state": "answered",
                "worker": "gpu-7",
                "device": "cpu",
                "batch_size": 4,
                "received_at": "2026-03-01T12:00:02.000Z",
                "ended_at": "2026-03-01T12:00:03.980Z",
                "duration_ms": 1980.0,
                "reached": "run",
                "code": None,
            },
        ],
        "clock_skew": [{"clock": "worker", "worker": "gpu-7", "ahead_ms": -350.0}],
        "webhook": {
            "state": "delivered",
            "attempts": [{"at": "2026-03-01T12:00:05.000Z", "status": 204, "error": None}],
            "next_attempt_at": None,
        },
        "trace_id": "ab" * 16,
        **members,
    }


def json_response(status: int, document: Any, **headers: str) -> ScriptedResponse:
    """Return a response with a JSON body. Underscores in the names of headers become dashes."""
    kind = "application/problem+json" if status >= 400 else "application/json"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ScriptedResponse(status, json.dumps(document).encode(), {"content-type": kind, **named})


def problem_response(status: int, code: str, detail: str, **members: Any) -> ScriptedResponse:
    """Return an error response whose body is a problem document with the code `code`.

    `members` replace members of the document, or are added to it.
    """
    document = {"type": f"/docs/problems#{code}", "title": code, "status": status, "code": code}
    return json_response(status, {**document, "detail": detail, **members})


def event_response(*events: tuple[str, str | None, Any], is_cut: bool = False) -> ScriptedResponse:
    """Return a response with events, each of a type, an id or None, and data as JSON."""
    lines = [": keep-alive\n\n"]
    for kind, event_id, data in events:
        head = "" if event_id is None else f"id: {event_id}\n"
        lines.append(f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n")
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return ScriptedResponse(200, "".join(lines).encode(), headers, is_cut)


#: Close the connection without a response.
HANG_UP = ScriptedResponse(0, b"")


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the gateway received."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedGateway:
    """A gateway that returns ``responses`` in order, and then the last response again and again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.responses: list[ScriptedResponse] = []
        self.requests: list[ReceivedRequest] = []
        #: Called for each request, for example to advance the time of a test.
        self.on_request: Callable[[], None] = lambda: None
        #: Returns the response to a request, for clients that send several at once.
        self.answer: Callable[[ReceivedRequest], ScriptedResponse] | None = None

    def next_response(self, request: ReceivedRequest) -> ScriptedResponse:
        if self.answer is not None:
            return self.answer(request)
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: ScriptedGateway

    def do_GET(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ReceivedRequest(self.command, self.path, headers, body)
        self.gateway.requests.append(request)
        self.gateway.on_request()
        reply = self.gateway.next_response(request)
        if reply is HANG_UP:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(reply.status)
        length = len(reply.body) + reply.is_cut
        for name, value in {**reply.headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        self.close_connection = self.close_connection or reply.is_cut

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self.rfile.read(int(self.rfile.readline(), 16)):
            yield chunk
            self.rfile.readline()
        self.rfile.readline()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class names them

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Suppress the log of requests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may disconnect
            super().handle_error(request, client_address)


@contextmanager
def serving() -> Iterator[ScriptedGateway]:
    """Run a scripted gateway during the ``with`` block."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        gateway = ScriptedGateway(f"http://127.0.0.1:{server.server_address[1]}")
        handler.gateway = gateway  # type: ignore[attr-defined] # set for this server alone
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
