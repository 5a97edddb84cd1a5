"""An emulator of the Azure Instance Metadata Service on a free port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import Request, Response, serve_http

MACHINE = "aks-gpu-12345-vmss_7"
NAME_PATH = "/metadata/instance/compute/name"
VERSIONS = {"/metadata/scheduledevents": "2020-07-01", NAME_PATH: "2021-02-01"}


class Metadata:
    """An emulator of Azure's metadata service, which returns the scheduled events in `events`."""

    def __init__(self) -> None:
        self.address = ""
        self.events: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.asked = 0
        self.started: list[str] = []
        self.changed = threading.Condition()

    def answer(self, request: Request) -> Response:
        address = urlsplit(request.path)
        version = parse_qs(address.query).get("api-version")
        if request.headers.get("metadata") != "true" or version != [VERSIONS.get(address.path, "")]:
            return Response(400, b'{"error": "not now"}')
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return Response(status, b'{"error": "not now"}')
        if request.method == "POST":
            starts = json.loads(request.body)["StartRequests"]
            self.started += [start["EventId"] for start in starts]
            return Response()
        if address.path == NAME_PATH:
            return Response(200, MACHINE.encode())
        with self.changed:
            self.asked += 1
            self.changed.notify_all()
        document = {"DocumentIncarnation": len(self.events), "Events": self.events}
        return Response(200, json.dumps(document).encode())

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
    metadata = Metadata()
    with serve_http(metadata.answer) as metadata.address:
        yield metadata
