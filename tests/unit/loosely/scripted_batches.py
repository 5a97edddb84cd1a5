"""Responses of a gateway with one batch, whose results grow with each request for its state."""

import json
import threading
from typing import Any

from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    ReceivedRequest,
    ScriptedResponse,
    json_response,
    problem_response,
)

BATCH_ID = "01982f0c-0000-8000-8000-000000000000"


def batch_document(status: str, **members: Any) -> dict[str, Any]:
    """Return the JSON document of a batch; `members` replace members of it, or are added."""
    counts = dict.fromkeys(("waiting", "running", "failed", "expired", "cancelled"), 0)
    return {
        "id": BATCH_ID,
        "model": "noop",
        "version": None,
        "label": None,
        "metadata": {},
        "status": status,
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": None,
        "finished_at": None,
        "deadline": "2026-01-03T03:04:05Z",
        "counts": {"total": 4, **counts, "succeeded": 4 if status == "succeeded" else 0},
        "progress": {"fraction": None},
        "estimate": {"rate_per_second": None, "eta_seconds": None},
        "errors": [],
        "error_codes": {},
        "links": {"self": f"/v1/batches/{BATCH_ID}"},
        **members,
    }


class ScriptedBatch:
    """Answers all requests for one batch. Each state that is read has one more result.

    `failures` are returned before the first of these responses, each once.
    """

    def __init__(
        self, url: str, lines: int = 4, failures: tuple[ScriptedResponse, ...] = ()
    ) -> None:
        self.url = url
        self.lines = [
            json.dumps({"custom_id": str(n), "job": f"j{n}", "status": "succeeded", "result": n})
            for n in range(4)
        ]
        self.ended = 0
        self.stored = b""
        self.is_linked = False
        self._failures = list(failures)
        self._lock = threading.Lock()

    @property
    def output(self) -> bytes:
        return "".join(f"{line}\n" for line in self.lines[: self.ended]).encode()

    def __call__(self, request: ReceivedRequest) -> ScriptedResponse:
        with self._lock:
            if self._failures:
                return self._failures.pop(0)
            return self._answer(request)

    def _answer(self, request: ReceivedRequest) -> ScriptedResponse:
        path = request.target.partition("?")[0].strip("/").split("/")
        answers = {
            ("POST", 2, "uploads"): self._make_upload,
            ("PUT", 1, "stored"): self._store,
            ("POST", 2, "batches"): lambda _: json_response(202, batch_document("validating")),
            ("DELETE", 3, BATCH_ID): lambda _: json_response(202, batch_document("cancelling")),
            ("GET", 3, BATCH_ID): self._show,
            ("GET", 2, "batches"): self._list,
            ("GET", 4, "results"): self._link if self.is_linked else self._range,
            ("GET", 1, "blob"): self._range,
        }
        return answers[request.method, len(path), path[-1]](request)

    def _make_upload(self, _: ReceivedRequest) -> ScriptedResponse:
        target = {"upload": "ref", "url": f"{self.url}/stored", "headers": {}}
        return json_response(201, target)

    def _store(self, request: ReceivedRequest) -> ScriptedResponse:
        self.stored = request.body
        return ScriptedResponse(201, b"")

    def _show(self, _: ReceivedRequest) -> ScriptedResponse:
        self.ended = min(self.ended + 1, len(self.lines))
        is_final = self.ended == len(self.lines)
        return json_response(200, batch_document("succeeded" if is_final else "running"))

    def _list(self, _: ReceivedRequest) -> ScriptedResponse:
        batches = [batch_document("running", label="b"), batch_document("succeeded")]
        return json_response(200, {"batches": batches, "next_cursor": None})

    def _link(self, _: ReceivedRequest) -> ScriptedResponse:
        return ScriptedResponse(303, b"", {"location": f"{self.url}/blob"})

    def _range(self, request: ReceivedRequest) -> ScriptedResponse:
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        if int(first) >= len(self.output):
            return problem_response(416, "range-not-satisfiable", "no more")
        return ScriptedResponse(206, self.output[int(first) : int(last) + 1])


#: What a gateway sends that is restarted.
RESTART = (HANG_UP, problem_response(503, "unavailable", "not now"), ScriptedResponse(502, b""))
