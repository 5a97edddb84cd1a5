"""Test the routes that answer with server-sent events."""

import json
from collections.abc import Sequence
from typing import Any

from contract.streams import StreamEvent, StreamEventType, encode_event, stream_blob
from tests.unit.gateway.conftest import RunningGateway


def read_events(text: str) -> list[dict[str, Any]]:
    """Read the server-sent events in a body. Comments are left out."""
    events = []
    for part in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in part.splitlines() if line and not line.startswith(":")
        )
        if fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


async def write(gateway: RunningGateway, job_id: str, *texts: str, attempt: int = 1) -> None:
    """Write an attempt with these chunks to the log of a job, as a worker does."""
    events = [StreamEvent(attempt, 0, StreamEventType.ATTEMPT)]
    events += [
        StreamEvent(attempt, number, StreamEventType.CHUNK, text)
        for number, text in enumerate(texts, 1)
    ]
    lines = b"".join(encode_event(event) + b"\n" for event in events)
    await gateway.blobs.append(stream_blob(job_id), lines)


async def follow(gateway: RunningGateway, job_id: str, **request: Any) -> list[dict[str, Any]]:
    answer = await gateway.http.get(f"/v1/jobs/{job_id}/events", **request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return read_events(answer.text)


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


class TestEndedJob:
    async def test_end_has_the_job_as_get_shows_it(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept()
        await gateway.reply()
        (end,) = await follow(gateway, job_id)
        assert end["event"] == "end"
        assert end["data"] == await gateway.job(job_id)
