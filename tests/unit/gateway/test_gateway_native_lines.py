"""Test how the output of a batch shows stored results, and lines without a result."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract import media
from contract.catalogue import Catalogue
from contract.messages import payload_to_json
from gateway.batches.ids import line_id, new_batch_id
from gateway.batches.model import BatchSpec
from gateway.batches.native_lines import MAX_RESULT_BYTES, NativeLines
from gateway.errors import Unavailable
from tests.unit.gateway.memory import MemoryPayloads

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = "2026-03-01T12:00:00.000Z", "2026-03-02T12:00:00.000Z"
SPEC = BatchSpec(new_batch_id(NOW), "t", "noop", *TIMES, "b")
JOB = line_id(SPEC.id, 1)


@pytest.fixture
def payloads() -> MemoryPayloads:
    return MemoryPayloads()


def record(**others: Any) -> dict[str, Any]:
    return {
        "model": "noop",
        "status": "succeeded",
        "created_at": TIMES[0],
        "started_at": None,
        "finished_at": TIMES[0],
        "deadline": TIMES[1],
        "attempt": 1,
        "result": None,
        "error": None,
        "timing": None,
        "trace_id": None,
        **others,
    }


def lines(payloads: MemoryPayloads) -> NativeLines:
    return NativeLines(Catalogue.load(Path("functions/contract/models.toml")), payloads)


def show(payloads: MemoryPayloads, media_type: str, data: bytes) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        ref = await payloads.put(f"results/{JOB}/1", data, media_type)
        found = record(result=payload_to_json(ref))
        return await lines(payloads).result_line(SPEC, {"custom_id": "a"}, JOB, found)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("media_type", "data", "result"),
    [
        (media.JSON, json.dumps([0.5] * 9000).encode(), [0.5] * 9000),
        (media.JSON, b"null", None),
        ("text/plain; charset=utf-8", "é".encode() * 50_000, "é" * 50_000),
    ],
    ids=["vector", "null", "text"],
)
def test_stored_result_is_in_the_line(
    payloads: MemoryPayloads, media_type: str, data: bytes, result: Any
) -> None:
    shown = show(payloads, media_type, data)
    assert shown["result"] == result
    assert "result_link" not in shown


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("image/png", b"1234"),
        (media.JSON, b'"' + b"a" * MAX_RESULT_BYTES + b'"'),
        (media.JSON, b"{"),
        ("text/plain", b"\xff"),
    ],
    ids=["image", "large", "no JSON", "no text"],
)
def test_other_result_is_a_link(payloads: MemoryPayloads, media_type: str, data: bytes) -> None:
    shown = show(payloads, media_type, data)
    assert shown["result_link"] == f"/v1/jobs/{JOB}/result"
    assert "result" not in shown


def test_failed_read_is_repeated(payloads: MemoryPayloads) -> None:
    ref = asyncio.run(payloads.put(f"results/{JOB}/1", b"[]", media.JSON))
    payloads.is_down = True
    reading = lines(payloads).result_line(
        SPEC, {"custom_id": "a"}, JOB, record(result=payload_to_json(ref))
    )
    with pytest.raises(Unavailable):
        asyncio.run(reading)


def test_cancelled_line_has_a_code(payloads: MemoryPayloads) -> None:
    shown = lines(payloads).error_line(SPEC, {"custom_id": "a"}, JOB, record(status="cancelled"))
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "cancelled")
