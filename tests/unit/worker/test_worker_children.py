"""Test how a running job runs child jobs, against a scripted HTTP server as the gateway."""

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from contract.catalogue import Catalogue
from contract.messages import PayloadRef
from worker.errors import Cancelled, ChildFailed, HandedBack, InferenceFailed, NotWaitedFor
from worker.inputs.payloads import BlobPayloads
from worker.memory.limits import DeviceLock
from worker.objects.port import BlobStore
from worker.pipeline.children import ChildServices, JobChildren
from worker.replies import GatewayClient

ENTRY = """
[{name}]
description = "Another model."
implementation = "worker.models.noop"
media_types = {types}
"""


class StoredResult(BlobStore):
    """A blob store with one result."""

    def __init__(self) -> None:
        pass

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        yield b"stored"


@dataclass
class Gateway:
    """An HTTP server that answers each request for a child job with `answer`.

    `answer` gets the number of the request, from 0, and returns a status and a JSON value.
    """

    answer: Callable[[int], tuple[int, Any]] = lambda number: (200, succeeded({"json": number}))
    requests: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def keys(self) -> list[str]:
        return [parse_qs(urlsplit(url).query)["key"][0] for url, _, _ in self.requests]


def succeeded(result: dict[str, Any], **named: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "status": "succeeded", "result": result, "results": named, "error": None}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving(Gateway()) as started:
        yield started


@contextmanager
def serving(gateway: Gateway) -> Iterator[Gateway]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                number = len(gateway.requests)
                gateway.requests.append((self.path, self.headers["content-type"], body))
            status, value = gateway.answer(number)
            self._send(status, json.dumps(value).encode())

        def do_DELETE(self) -> None:
            gateway.cancelled.set()
            self._send(200, b"{}")

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_catalogue(folder: Any) -> Catalogue:
    kinds = {
        "picture": ["image/jpeg", "image/png"],
        "text": ["text/plain"],
        "value": ["application/json"],
        "array": ["application/x-npy"],
        "any": ["application/octet-stream"],
    }
    path = folder / "models.toml"
    path.write_text("".join(ENTRY.format(name=name, types=types) for name, types in kinds.items()))
    return Catalogue.load(path)


@pytest.fixture
def children(gateway: Gateway, tmp_path: Any) -> Callable[..., JobChildren]:
    address = f"127.0.0.1:{gateway.port}"
    services = ChildServices(
        GatewayClient(frozenset({address})),
        make_catalogue(tmp_path),
        BlobPayloads(StoredResult()),
    )

    def make(
        release: Callable[[], Any] = nullcontext,
        must_unload: Callable[[], bool] = lambda: False,
        reply_url: str | None = f"http://{address}/v1/jobs/parent/reply?expires=1&token=t",
    ) -> JobChildren:
        return JobChildren(services, reply_url, release, must_unload)

    return make


def run(children: JobChildren, model: str, inputs: list[Any], **parameters: Any) -> list[Any]:
    return children.run_child_jobs(model, inputs, parameters, lambda: None)


class TestInput:
    @pytest.mark.parametrize(
        ("model", "value", "media_type", "start"),
        [
            ("picture", Image.new("RGB", (2, 2)), "image/png", b"\x89PNG"),
            ("text", "hello", "text/plain", b"hello"),
            ("value", {"a": 1}, "application/json", b'{"input":{"json":{"a":1}}}'),
            ("value", "hello", "application/json", b'{"input":{"json":"hello"}}'),
            ("array", np.zeros(2), "application/x-npy", b"\x93NUMPY"),
            ("any", b"bytes", None, b"bytes"),
        ],
    )
    def test_is_encoded_for_the_model(  # noqa: PLR0917 - the columns of the table
        self,
        gateway: Gateway,
        children: Callable[..., JobChildren],
        model: str,
        value: Any,
        media_type: str | None,
        start: bytes,
    ) -> None:
        run(children(), model, [value])
        ((_, found, body),) = gateway.requests
        assert (found, body[: len(start)]) == (media_type, start)

    @pytest.mark.parametrize(
        ("model", "value"), [("picture", "text"), ("text", {"a": 1}), ("value", np.zeros(1))]
    )
    def test_of_another_type_is_refused(
        self, children: Callable[..., JobChildren], model: str, value: Any
    ) -> None:
        with pytest.raises(InferenceFailed, match="does not accept"):
            run(children(), model, [value])

    def test_of_unknown_model_is_refused(self, children: Callable[..., JobChildren]) -> None:
        with pytest.raises(InferenceFailed, match="picture"):
            run(children(), "pictures", [b""])

    def test_without_gateway_is_refused(self, children: Callable[..., JobChildren]) -> None:
        with pytest.raises(InferenceFailed, match="through the gateway"):
            run(children(reply_url=None), "any", [b""])


class TestResult:
    def test_order_is_that_of_the_inputs(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        inputs = [str(number).encode() for number in range(40)]
        found = run(children(), "any", inputs)
        sent = {body: number for number, (_, _, body) in enumerate(gateway.requests)}
        assert found == [sent[each] for each in inputs]

    def test_is_what_the_model_returned(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        file = io.BytesIO()
        Image.new("L", (3, 2)).save(file, "PNG")
        reference = {
            "media_type": "text/plain",
            "blob": "results/c/" + "0" * 32,
            "size_bytes": 6,
            "sha256": hashlib.sha256(b"stored").hexdigest(),
        }
        picture = {"media_type": "image/png", "base64": _base64(file.getvalue())}
        gateway.answer = lambda _: (200, succeeded(reference, mask=picture))
        (result,) = run(children(), "any", [b""])
        assert (result.first, result.mask.size) == ("stored", (3, 2))

    def test_is_waited_for_with_a_repeated_request(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        gateway.answer = lambda number: (
            (202, {"status": "queued"}) if number < 2 else (200, succeeded({"json": 1}))
        )
        assert run(children(), "any", [b"x"]) == [1]
        assert [body for _, _, body in gateway.requests] == [b"x", b"", b""]
        assert len(set(gateway.keys)) == 1

    def test_survives_a_busy_gateway(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        statuses = iter([503, 429, 404])
        gateway.answer = lambda _: (next(statuses, 200), succeeded({"json": 1}))
        assert run(children(), "any", [b"x"]) == [1]


class TestKey:
    def test_is_the_same_when_the_parent_runs_again(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        for _ in range(2):
            again = children()
            run(again, "any", [b"x"])
            run(again, "any", [b"x"])
        first, second, third, fourth = gateway.keys
        assert (first, second) == (third, fourth)
        assert first != second

    def test_depends_on_input_and_parameters(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        run(children(), "any", [b"x"])
        run(children(), "any", [b"y"])
        run(children(), "any", [b"x"], top=1)
        assert len(set(gateway.keys)) == 3


class TestEnd:
    def test_failed_child_cancels_the_others(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        error = {"code": "invalid-input", "message": "no picture"}
        gateway.answer = lambda _: (200, {"id": "c", "status": "failed", "error": error})
        with pytest.raises(ChildFailed, match="invalid-input no picture"):
            run(children(), "any", [b"x", b"y"])
        assert gateway.cancelled.is_set()

    @pytest.mark.parametrize("status", [415, 410])
    def test_refused_child_names_the_problem(
        self, status: int, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        gateway.answer = lambda _: (status, {"code": "refused", "detail": "no"})
        with pytest.raises(ChildFailed, match="refused: no"):
            run(children(), "any", [b"x"])

    def test_ended_parent_needs_no_child(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        gateway.answer = lambda _: (410, {"code": "already-final"})
        with pytest.raises(NotWaitedFor):
            run(children(), "any", [b"x"])

    def test_cancelled_parent_cancels_its_children(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        def check() -> None:
            raise Cancelled("cancelled")

        gateway.answer = lambda _: (202, {"status": "queued"})
        with pytest.raises(Cancelled):
            children().run_child_jobs("any", [b"x"], {}, check)
        assert gateway.cancelled.is_set()

    def test_unloaded_model_keeps_its_children(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        gateway.answer = lambda _: (202, {"status": "queued"})
        with pytest.raises(HandedBack):
            run(children(must_unload=lambda: True), "any", [b"x"])
        assert not gateway.cancelled.is_set()

    def test_device_is_free_while_a_child_runs(
        self, gateway: Gateway, children: Callable[..., JobChildren]
    ) -> None:
        device = DeviceLock()

        def answer(_: int) -> tuple[int, Any]:
            with device.shared():
                return 200, succeeded({"json": 1})

        gateway.answer = answer
        with device.exclusive():
            assert run(children(device.released), "any", [b"x"]) == [1]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
