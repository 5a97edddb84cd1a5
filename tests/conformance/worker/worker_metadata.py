"""An emulator of the Azure Instance Metadata Service on a free port."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

MACHINE = "aks-gpu-12345-vmss_7"


class Metadata(http.server.ThreadingHTTPServer):
    """An emulator of Azure's metadata service, which returns the scheduled events in `events`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.asked = 0
        self.started: list[str] = []
        self.changed = threading.Condition()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def announce(self, kind: str, *machines: str, not_before: str = "") -> str:
        event_id = f"event-{len(self.events)}"
        event = {
            "EventId": event_id,
            "EventStatus": "Scheduled" if not_before else "Started",
            "EventType": kind,
            "ResourceType": "VirtualMachine",
            "Resources": list(machines or (MACHINE,)),
            "NotBefore": not_before,
            "Description": "",
            "EventSource": "Platform",
            "DurationInSeconds": -1,
        }
        self.events = [*self.events, event]
        return event_id


@contextmanager
def run_metadata() -> Iterator[Metadata]:
    """Run the emulated metadata service until the `with` block ends."""
    metadata = Metadata()
    thread = threading.Thread(target=metadata.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield metadata
    finally:
        metadata.shutdown()
        thread.join(10)
        metadata.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        if self._is_refused():
            return
        if urlsplit(self.path).path == "/metadata/instance/compute/name":
            self._answer(200, MACHINE.encode())
            return
        document = {"DocumentIncarnation": len(self.server.events), "Events": self.server.events}
        self._answer(200, json.dumps(document).encode())
        with self.server.changed:
            self.server.asked += 1
            self.server.changed.notify_all()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._is_refused():
            self.server.started += [request["EventId"] for request in body["StartRequests"]]
            self._answer(200, b"")

    def _is_refused(self) -> bool:
        """Refuse an invalid request or one with a scripted status; return whether it was."""
        address = urlsplit(self.path)
        known = {
            "/metadata/scheduledevents": "2020-07-01",
            "/metadata/instance/compute/name": "2021-02-01",
        }
        version = parse_qs(address.query).get("api-version")
        status = 200
        if self.headers["metadata"] != "true" or version != [known.get(address.path, "")]:
            status = 400
        elif self.server.statuses:
            status = self.server.statuses.pop(0)
        if status != 200:
            self._answer(status, b'{"error": "not now"}')
        return status != 200

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        pass
