"""Test the routes that answer with server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.streams import (
    StreamEvent,
    StreamEventType,
    encode_event,
    parse_stop,
    stop_log,
    stream_blob,
)
from gateway.http import event_stream
from tests.unit.gateway.api_keys import ask, job_of
from tests.unit.gateway.conftest import (
    STARTED_AT,
    RunningGateway,
    open_gateway,
    reply_body,
    write_catalogue,
    write_progress_catalogue,
)
from tests.unit.gateway.web_calls import serving


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
    begin = encode_event(StreamEvent(attempt, 0, StreamEventType.ATTEMPT)) + b"\n"
    await gateway.blobs.append(stream_blob(job_id), begin)
    await write_more(gateway, job_id, 1, *texts, attempt=attempt)


async def write_more(
    gateway: RunningGateway, job_id: str, first: int, *texts: str, attempt: int = 1
) -> None:
    """Write further chunks, the first of which has the number `first`."""
    chunks = [
        StreamEvent(attempt, number, StreamEventType.CHUNK, text)
        for number, text in enumerate(texts, first)
    ]
    lines = b"".join(encode_event(event) + b"\n" for event in chunks)
    await gateway.blobs.append(stream_blob(job_id), lines)


async def report(
    gateway: RunningGateway, job_id: str, sequence: int, fraction: float | None = None
) -> None:
    """Report the progress of a job, as a worker does."""
    url = str(gateway.queues.request().reply_url).replace("/reply?", "/progress?")
    body = {"attempt": 1, "sequence": sequence, "started_at": STARTED_AT}
    given = body if fraction is None else {**body, "fraction": fraction}
    answer = await gateway.http.put(url, json=given)
    assert answer.status_code < 300, answer.text


async def follow(gateway: RunningGateway, job_id: str, **request: Any) -> list[dict[str, Any]]:
    answer = await gateway.http.get(f"/v1/jobs/{job_id}/events", **request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return read_events(answer.text)


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


class Caller:
    """Reads a stream over a real connection while it is open."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._parts = answer.aiter_text()
        self._text = ""

    async def next(self) -> dict[str, Any]:
        """Return the next event."""
        async with asyncio.timeout(10):
            while True:
                part, separator, rest = self._text.partition("\n\n")
                if not separator:
                    self._text += await anext(self._parts)
                    continue
                self._text = rest
                if events := read_events(part):
                    return events[0]


@asynccontextmanager
async def listen(gateway: RunningGateway, path: str, **request: Any) -> AsyncIterator[Caller]:
    """Send a request to the gateway on a server of its own."""
    async with (
        serving(gateway.app, gateway.durable) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        http.stream(request.pop("method", "GET"), path, **request) as answer,
    ):
        yield Caller(answer)


SUBMIT = "/v1/models/noop/jobs"


def submitting(*headers: tuple[str, str], **request: Any) -> dict[str, Any]:
    """Return a request that submits a job and asks for its stream."""
    given = {"accept": "text/event-stream", "content-type": "application/octet-stream"}
    return {"method": "POST", "content": b"x", "headers": given | dict(headers), **request}


class TestEndedJob:
    async def test_end_has_the_job_as_get_shows_it(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept()
        await gateway.reply()
        (end,) = await follow(gateway, job_id)
        assert end["event"] == "end"
        assert end["data"] == await gateway.job(job_id)

    async def test_log_is_replayed_before_the_end(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        await write(gateway, job_id, "Pa", "ris")
        await gateway.reply()
        events = await follow(gateway, job_id)
        assert [(each["event"], each["id"]) for each in events] == [
            ("chunk", "1-1"),
            ("chunk", "1-2"),
            ("end", "1-3"),
        ]
        assert "".join(each["data"] for each in events[:2]) == "Paris"

    @pytest.mark.parametrize(
        "request_",
        [{"headers": {"last-event-id": "1-1"}}, {"params": {"after": "1-1"}}],
        ids=["header", "query"],
    )
    async def test_resumes_after_an_id(
        self, gateway: RunningGateway, request_: dict[str, Any]
    ) -> None:
        job_id = await gateway.accept(stream="true")
        await write(gateway, job_id, "Pa", "ris")
        await gateway.reply()
        events = await follow(gateway, job_id, **request_)
        assert [each["id"] for each in events] == ["1-2", "1-3"]

    async def test_next_attempt_is_announced(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        await write(gateway, job_id, "a", "b")
        await write(gateway, job_id, "c", attempt=2)
        late = StreamEvent(1, 3, StreamEventType.CHUNK, "late")
        await gateway.blobs.append(stream_blob(job_id), encode_event(late) + b"\n")
        await gateway.reply()
        events = await follow(gateway, job_id)
        assert [each["id"] for each in events] == ["1-1", "1-2", "2-0", "2-1", "2-2"]
        assert events[2]["event"] == "attempt"
        assert events[2]["data"] == {"attempt": 2}

    async def test_second_run_of_an_attempt_is_announced(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        await write(gateway, job_id, "a")
        again = StreamEvent(1, 2, StreamEventType.ATTEMPT)
        await gateway.blobs.append(stream_blob(job_id), encode_event(again) + b"\n")
        await write_more(gateway, job_id, 3, "b")
        await gateway.reply()
        events = await follow(gateway, job_id)
        assert [each["event"] for each in events] == ["chunk", "attempt", "chunk", "end"]

    async def test_lost_events_are_reported(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        body = reply_body(job_id, result={"json": 1})
        body["timing"]["delivery"] = {"stream_lost": True}
        url = gateway.queues.request().reply_url
        assert (await gateway.http.post(str(url), json=body)).status_code == 202
        assert names(await follow(gateway, job_id)) == ["stream_lost", "end"]

    async def test_unreadable_log_is_reported(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        await gateway.reply()
        gateway.payloads.is_down = True
        assert "stream_lost" in names(await follow(gateway, job_id))


class TestRefusals:
    async def test_other_tenants_get_404(self, closed: RunningGateway) -> None:
        path = f"/v1/jobs/{await job_of(closed, 'a')}/events"
        other = await ask(closed, "b", path)
        assert (other.status_code, other.json()["code"]) == (404, "unknown-job")
        assert (await ask(closed, "writer", path)).status_code == 403
        assert (await closed.http.get(path)).status_code == 401

    @pytest.mark.parametrize("text", ["1", "a-b", "1-2-3", "-1-2"])
    async def test_malformed_id(self, gateway: RunningGateway, text: str) -> None:
        job_id = await gateway.accept()
        headers = {"last-event-id": "1-1"}
        answer = await gateway.http.get(
            f"/v1/jobs/{job_id}/events", params={"after": text}, headers=headers
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")

    @pytest.mark.parametrize("limit", ["max_tenant_streams", "max_streams"])
    async def test_too_many_streams(self, limit: str) -> None:
        settings: dict[str, Any] = {limit: 1}
        async with open_gateway(**settings) as gateway:
            async with listen(gateway, SUBMIT, **submitting()) as caller:
                job_id = (await caller.next())["data"]["id"]
                for answer in (
                    await gateway.http.get(f"/v1/jobs/{job_id}/events"),
                    await gateway.http.post(SUBMIT, content=b"x", headers=submitting()["headers"]),
                ):
                    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-streams")
                    assert answer.headers["retry-after"] == "5"
                assert len(gateway.queues.sent) == 1
            await gateway.reply()
            # The place is free after the hang-up.
            assert names(await follow(gateway, job_id)) == ["end"]

    async def test_a_thousand_reconnects_keep_no_place(self) -> None:
        async with open_gateway(max_streams=1) as gateway:
            job_id = await gateway.accept()
            await gateway.reply()
            for _ in range(1000):
                await follow(gateway, job_id)
            assert gateway.services.streams.reader_count() == 0

    async def test_reconnects_count_for_their_key_alone(self, closed: RunningGateway) -> None:
        path = f"/v1/jobs/{await job_of(closed, 'a')}/events"
        await closed.reply()
        found = [(await ask(closed, "a2", path)).status_code for _ in range(1000)]
        assert (found.count(200), found.count(429)) == (3, 997)
        assert (await ask(closed, "a", path)).status_code == 200


class TestSubmit:
    async def test_answers_with_the_job_then_events(self, gateway: RunningGateway) -> None:
        async with listen(gateway, SUBMIT, **submitting()) as caller:
            job = await caller.next()
            assert (job["event"], job["data"]["status"]) == ("job", "queued")
            assert gateway.queues.request().stream
            job_id = job["data"]["id"]
            await write(gateway, job_id, "Hello")
            assert (await caller.next())["data"] == "Hello"
            await write_more(gateway, job_id, 2, " you")
            assert (await caller.next())["data"] == " you"
            await gateway.reply()
            end = await caller.next()
            assert end["data"] == await gateway.job(job_id)

    async def test_headers_come_at_once(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept()
        async with listen(gateway, f"/v1/jobs/{job_id}/events") as caller:
            assert caller.answer.status_code == 200
            assert "content-length" not in caller.answer.headers

    @pytest.mark.parametrize(
        ("request_", "streams"),
        [
            ({"headers": {"prefer": "respond-async, stream"}}, True),
            ({"params": {"stream": "true"}}, True),
            ({"params": {"stream": "false"}, "headers": {"prefer": "stream, wait=0"}}, False),
            ({}, False),
        ],
        ids=["prefer", "query", "query-says-no", "nothing"],
    )
    async def test_job_streams_if_asked(
        self, gateway: RunningGateway, request_: dict[str, Any], streams: bool
    ) -> None:
        headers = {"content-type": "application/octet-stream", **request_.pop("headers", {})}
        answer = await gateway.submit(content=b"x", headers=headers, **request_)
        assert answer.status_code == 202
        assert gateway.queues.request().stream is streams
        applied = answer.headers.get("preference-applied", "")
        assert ("stream" in applied) is (streams and "prefer" in headers)

    async def test_member_of_a_json_body(self, gateway: RunningGateway) -> None:
        body = {"input": {"text": "x"}, "stream": True}
        assert (await gateway.submit(json=body)).status_code == 202
        assert gateway.queues.request().stream
        answer = await gateway.submit(json={**body, "stream": "maybe"})
        assert answer.status_code == 400

    async def test_catalogue_can_be_the_default(self, tmp_path: Path) -> None:
        path = write_catalogue(tmp_path, "streams = true\n")
        async with open_gateway(catalogue_path=path) as gateway:
            await gateway.accept()
            assert gateway.queues.request().stream
            await gateway.accept(stream="false")
            assert not gateway.queues.request().stream

    async def test_repeat_with_a_key_follows_the_job(self, gateway: RunningGateway) -> None:
        key = ("idempotency-key", "once")
        async with listen(gateway, SUBMIT, **submitting(key)) as caller:
            job_id = (await caller.next())["data"]["id"]
        await write(gateway, job_id, "Hello")
        await gateway.reply()
        async with listen(gateway, SUBMIT, **submitting(key)) as caller:
            assert caller.answer.headers["idempotency-replayed"] == "true"
            assert (await caller.next())["data"]["id"] == job_id
            assert (await caller.next())["data"] == "Hello"
            assert (await caller.next())["event"] == "end"
        assert len(gateway.queues.sent) == 1

    async def test_key_belongs_to_a_stream(self, gateway: RunningGateway) -> None:
        headers = {"idempotency-key": "once", "content-type": "application/octet-stream"}
        assert (await gateway.submit(content=b"x", headers=headers)).status_code == 202
        other = await gateway.submit(content=b"x", headers=headers, params={"stream": "true"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


class TestConnection:
    async def test_large_chunks_are_not_compressed(self, gateway: RunningGateway) -> None:
        job_id = await gateway.accept(stream="true")
        await write(gateway, job_id, "x" * 20_000)
        await gateway.reply()
        headers = {"accept-encoding": "gzip"}
        answer = await gateway.http.get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert "content-encoding" not in answer.headers
        assert names(read_events(answer.text)) == ["chunk", "end"]

    async def test_hang_up_closes_the_reader(self, gateway: RunningGateway) -> None:
        streams = gateway.services.streams
        async with listen(gateway, SUBMIT, **submitting()) as caller:
            await caller.next()
            assert streams.reader_count() == 1
        for _ in range(200):
            if not streams.reader_count():
                break
            await asyncio.sleep(0.01)
        assert streams.reader_count() == 0

    async def test_progress_of_a_model_without_chunks(self, tmp_path: Path) -> None:
        async with open_gateway(catalogue_path=write_progress_catalogue(tmp_path)) as gateway:
            job_id = await gateway.accept()
            async with listen(gateway, f"/v1/jobs/{job_id}/events") as caller:
                await report(gateway, job_id, 0, 0.25)
                progress = await caller.next()
                assert progress["data"] == {"fraction": 0.25, "message": None}
                await gateway.reply()
                assert (await caller.next())["event"] == "end"

    async def test_comment_then_resume(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.02)
        monkeypatch.setattr(event_stream, "LONGEST_STREAM_SECONDS", 0.3)
        async with open_gateway() as gateway:
            job_id = await gateway.accept(stream="true")
            await write(gateway, job_id, "a")
            answer = await gateway.http.get(f"/v1/jobs/{job_id}/events")
            assert answer.text.count(":\n\n") > 3
            (chunk, resume) = read_events(answer.text)
            assert (resume["event"], resume["id"]) == ("resume", chunk["id"])
            assert resume["data"]["after"] == "1-1"

    async def test_reader_that_stops_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_stream, "BLOCKED_SECONDS", 0.1)
        monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.1)
        async with open_gateway() as gateway:
            streams = gateway.services.streams
            job_id = await gateway.accept(stream="true")
            await write(gateway, job_id, *("x" * 60_000 for _ in range(300)))
            async with listen(gateway, f"/v1/jobs/{job_id}/events"):
                for _ in range(500):
                    if not streams.reader_count():
                        break
                    await asyncio.sleep(0.01)
                assert streams.reader_count() == 0


async def test_order_to_stop_is_in_the_log(tmp_path: Path) -> None:
    async with open_gateway(catalogue_path=write_progress_catalogue(tmp_path)) as gateway:
        job_id = await gateway.accept()
        await report(gateway, job_id, 0)
        assert (await gateway.http.delete(f"/v1/jobs/{job_id}")).status_code == 202
        lines = await gateway.blobs.read_from(stop_log(gateway.clock()), 0, 1000)
        assert [parse_stop(line) for line in lines.splitlines()] == [job_id]


async def test_order_before_a_report_is_in_the_log(tmp_path: Path) -> None:
    async with open_gateway(catalogue_path=write_progress_catalogue(tmp_path)) as gateway:
        job_id = await gateway.accept()
        assert (await gateway.http.delete(f"/v1/jobs/{job_id}")).status_code == 202
        assert (await gateway.job(job_id))["status"] == "cancelled"
        lines = await gateway.blobs.read_from(stop_log(gateway.clock()), 0, 1000)
        assert [parse_stop(line) for line in lines.splitlines()] == [job_id]
