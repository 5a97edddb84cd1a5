"""Test the batches of both clients: what is sent, what is waited for, and what is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loosely import AsyncClient, BatchRefused, Client, InvalidRequest, Upload, WaitTimedOut
from loosely.client import batches as module
from tests.unit.loosely.both_clients import AnyClient, Connect, SleepClock
from tests.unit.loosely.scripted_batches import BATCH_ID, RESTART, ScriptedBatch, batch_document
from tests.unit.loosely.scripted_gateway import (
    ScriptedGateway,
    json_response,
    problem_response,
)

LARGE = b"\xff\xd8\xff" + bytes(100_000)


@pytest.fixture
def batch(gateway: ScriptedGateway) -> ScriptedBatch:
    gateway.answer = scripted = ScriptedBatch(gateway.url)
    return scripted


@pytest.fixture
def batches(gateway: ScriptedGateway, connect: Connect) -> AnyClient:
    client = connect(gateway.url)
    client.client = client.client.batches  # type: ignore[assignment] # it has methods as a client
    return client


def posted(gateway: ScriptedGateway, target: str = "/v1/batches") -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in gateway.requests if each.target == target]


class TestSubmit:
    def test_few_lines_are_sent_as_items(
        self, gateway: ScriptedGateway, batch: ScriptedBatch, batches: AnyClient
    ) -> None:
        lines = [{"custom_id": "a", "input": {"text": "x"}}, '{"custom_id": "b", "upload": "u"}']
        found = batches.submit(
            "noop",
            lines,
            parameters={"top": 3},
            deadline_seconds=60,
            label="l",
            metadata={"k": "v"},
            webhook_url="https://example.org/",
        )
        assert (found.id, found.status, found.is_final) == (BATCH_ID, "validating", False)
        assert posted(gateway) == [
            {
                "model": "noop",
                "parameters": {"top": 3},
                "deadline_seconds": 60,
                "label": "l",
                "metadata": {"k": "v"},
                "webhook": {"url": "https://example.org/"},
                "items": [lines[0], {"custom_id": "b", "upload": "u"}],
            }
        ]

    @pytest.mark.parametrize("count", [1000, 1001])
    def test_many_lines_are_uploaded(
        self, gateway: ScriptedGateway, batch: ScriptedBatch, batches: AnyClient, count: int
    ) -> None:
        batches.submit("noop", ({"custom_id": str(n), "input": {}} for n in range(count)))
        [sent] = posted(gateway)
        if count > 1000:
            assert sent == {"model": "noop", "file": {"upload": "ref"}}
            [asked] = posted(gateway, "/v1/uploads")
            assert asked == {"purpose": "batch", "media_type": "application/jsonl"}
            stored = [json.loads(line) for line in batch.stored.splitlines()]
        else:
            stored = sent["items"]
        assert stored == [{"custom_id": str(n), "input": {}} for n in range(count)]

    def test_file_is_uploaded_as_it_is(
        self, gateway: ScriptedGateway, batch: ScriptedBatch, batches: AnyClient, tmp_path: Path
    ) -> None:
        file = tmp_path / "lines.jsonl"
        file.write_bytes(b"\xef\xbb\xbf{not JSON}\r\n")
        batches.submit("noop", file)
        assert batch.stored == file.read_bytes()
        assert posted(gateway) == [{"model": "noop", "file": {"upload": "ref"}}]

    def test_inputs_become_lines(
        self, gateway: ScriptedGateway, batch: ScriptedBatch, batches: AnyClient, tmp_path: Path
    ) -> None:
        picture = tmp_path / "cat.jpg"
        picture.write_bytes(LARGE)
        own = {
            "custom_id": "own",
            "input": b"{}",
            "inputs": {"mask": picture, "title": {"text": ""}},
        }
        batches.submit("noop", [b"x", picture, Upload("u", "text/plain", 1), own])
        upload = {"upload": "ref", "media_type": "image/jpeg"}
        plain = "application/octet-stream"
        assert posted(gateway)[0]["items"] == [
            {"custom_id": "0", "input": {"base64": "eA==", "media_type": plain}},
            {"custom_id": str(picture), "input": upload},
            {"custom_id": "2", "input": {"upload": "u", "media_type": "text/plain"}},
            {
                "custom_id": "own",
                "input": {"base64": "e30=", "media_type": plain},
                "inputs": {"mask": upload, "title": {"text": ""}},
            },
        ]
        asked = sorted(posted(gateway, "/v1/uploads"), key=len)
        assert asked == [
            {"model": "noop", "media_type": "image/jpeg"},
            {"model": "noop", "input": "mask", "media_type": "image/jpeg"},
        ]

    def test_repeat_keeps_idempotency_key(
        self, gateway: ScriptedGateway, batches: AnyClient
    ) -> None:
        gateway.answer = ScriptedBatch(gateway.url, failures=RESTART)
        with Client(gateway.url):
            batches.submit("noop", [])
        keys = {request.headers["idempotency-key"] for request in gateway.requests}
        assert (len(gateway.requests), len(keys)) == (len(RESTART) + 1, 1)

    @pytest.mark.parametrize("lines", ["lines.jsonl", b"{}"])
    def test_one_text_is_refused(self, batches: AnyClient, lines: Any) -> None:
        with pytest.raises(TypeError, match="found one text"):
            batches.submit("noop", lines)

    def test_line_that_is_no_json_is_refused(self, batches: AnyClient) -> None:
        with pytest.raises(ValueError, match="line 2 is not JSON"):
            batches.submit("noop", ["{}", "{"])

    def test_refused_lines_are_in_the_error(
        self, gateway: ScriptedGateway, batches: AnyClient
    ) -> None:
        errors = [{"line": 2, "code": "duplicate-custom-id", "message": "a"}]
        gateway.responses = [problem_response(422, "invalid-batch", "no", errors=errors)]
        with pytest.raises(InvalidRequest) as caught:
            batches.submit("noop", [{}])
        assert caught.value.document["errors"] == errors


class TestWait:
    def test_returns_batch_that_has_ended(self, batch: ScriptedBatch, batches: AnyClient) -> None:
        found = batches.wait(BATCH_ID)
        assert (found.status, found.counts.succeeded, found.counts.ended) == ("succeeded", 4, 4)

    def test_survives_restart(self, gateway: ScriptedGateway, batches: AnyClient) -> None:
        gateway.answer = ScriptedBatch(gateway.url, failures=RESTART)
        assert batches.wait(BATCH_ID).is_final

    def test_refused_lines_are_raised(self, gateway: ScriptedGateway, batches: AnyClient) -> None:
        errors = [{"line": n, "code": "invalid-json", "message": "no"} for n in range(1, 13)]
        gateway.responses = [json_response(200, batch_document("failed", errors=errors))]
        with pytest.raises(
            BatchRefused, match=r"line 1: invalid-json: no\n(.*\n)+and 2 more"
        ) as it:
            batches.wait(BATCH_ID)
        assert len(it.value.batch.errors) == 12

    def test_ends_at_limit(
        self, gateway: ScriptedGateway, batches: AnyClient, clock: SleepClock
    ) -> None:
        gateway.responses = [json_response(200, batch_document("running"))]
        with pytest.raises(WaitTimedOut, match=f"batch {BATCH_ID} has not ended after 5 s"):
            batches.wait(BATCH_ID, wait_seconds=5)
        assert 4 <= clock.now <= 7


class TestOutput:
    @pytest.mark.parametrize("is_linked", [False, True])
    def test_results_follow_until_end(
        self,
        batch: ScriptedBatch,
        batches: AnyClient,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_linked: bool,
    ) -> None:
        monkeypatch.setattr(module, "_PART_BYTES", 50)  # a part ends within a line
        batch.is_linked = is_linked
        found = batches.results(BATCH_ID, follow=True)
        assert [line["result"] for line in found] == [0, 1, 2, 3]

    def test_results_are_those_until_now(self, batch: ScriptedBatch, batches: AnyClient) -> None:
        assert [line["result"] for line in batches.results(BATCH_ID)] == [0]

    def test_of_refused_lines_raises(self, gateway: ScriptedGateway, batches: AnyClient) -> None:
        gateway.responses = [json_response(200, batch_document("failed"))]
        with pytest.raises(BatchRefused):
            batches.results(BATCH_ID, follow=True)

    def test_survives_restart(self, gateway: ScriptedGateway, batches: AnyClient) -> None:
        gateway.answer = ScriptedBatch(gateway.url, failures=RESTART)
        assert len(batches.results(BATCH_ID, follow=True)) == 4

    @pytest.mark.parametrize("kept_bytes", [0, 1, 70, 10_000])
    def test_saved_file_is_continued(
        self, batch: ScriptedBatch, batches: AnyClient, tmp_path: Path, kept_bytes: int
    ) -> None:
        file = tmp_path / "results.jsonl"
        batch.ended = 3
        file.write_bytes(batch.output[:kept_bytes])
        assert batches.save(BATCH_ID, file).status == "succeeded"
        assert file.read_bytes() == batch.output
        assert len(batch.output.splitlines()) == 4

    def test_file_of_other_content_is_kept(
        self, batch: ScriptedBatch, batches: AnyClient, tmp_path: Path
    ) -> None:
        file = tmp_path / "results.jsonl"
        file.write_text("mine")
        with pytest.raises(ValueError, match="has content that is not of the batch"):
            batches.save(BATCH_ID, file)
        assert file.read_text() == "mine"


class TestList:
    def test_yields_batches_of_all_pages(
        self, gateway: ScriptedGateway, batches: AnyClient
    ) -> None:
        page = {"batches": [batch_document("running", label="b")], "next_cursor": "c"}
        gateway.responses = [
            json_response(200, page),
            json_response(200, {**page, "next_cursor": None}),
        ]
        assert [each.label for each in batches.list(label="b*", status="running")] == ["b", "b"]
        assert [request.target for request in gateway.requests] == [
            "/v1/batches?status=running&label=b%2A",
            "/v1/batches?status=running&label=b%2A&cursor=c",
        ]

    def test_cancel_returns_batch(self, batch: ScriptedBatch, batches: AnyClient) -> None:
        assert batches.cancel(BATCH_ID).status == "cancelling"


def test_both_kinds_have_same_methods() -> None:
    def methods(kind: Callable[..., Any]) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    with Client() as client:
        assert methods(type(client.batches)) == methods(type(AsyncClient().batches))
