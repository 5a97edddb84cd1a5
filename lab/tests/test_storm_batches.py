"""Test that the storm of batches finds each fault in a batch and its outputs, and no other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.batches.ids import line_id
from lab.storm.batches import StormBatch, plan_batches
from lab.storm.jobs import BrokenPromises

ID = "019f0000-0000-8000-8000-000000000000"
OTHER_ID = "019f0000-0000-8000-8000-000000010000"
LINES = 4


def row(number: int, *, job: int | None = None, **members: Any) -> bytes:
    found = {"custom_id": f"1.{number}", "job": line_id(ID, job or number), **members}
    return json.dumps(found).encode() + b"\n"


def good(number: int, *, job: int | None = None) -> bytes:
    return row(number, job=job, status="succeeded", result={"number": f"1.{number}"})


BAD = row(2, status="failed", error={"code": "model-failed"})
RESULTS = good(1) + good(3) + good(4)


def resource(status: str = "succeeded", **counts: int) -> dict[str, Any]:
    names = ("waiting", "running", "succeeded", "failed", "expired", "cancelled")
    given = counts or {"succeeded": 3, "failed": 1}
    found = {"total": LINES, **dict.fromkeys(names, 0), **given}
    finished_at = "2026-12-02T09:00:00Z" if status == "succeeded" else None
    return {"status": status, "counts": found, "finished_at": finished_at}


def accepted() -> StormBatch:
    (batch,) = plan_batches(1, LINES, seed=1)
    for line in batch.lines:
        line.is_failing = line.number == 2
    batch.accept(ID)
    return batch


def judged(
    results: bytes = RESULTS, errors: bytes = BAD, shown: Mapping[str, Any] | None = None
) -> StormBatch:
    batch = accepted()
    batch.see(shown or resource())
    batch.see_output("results", results)
    batch.see_output("errors", errors)
    batch.judge()
    return batch


def broken(batch: StormBatch) -> dict[str, list[str]]:
    found = BrokenPromises.find(batch.lines)
    kinds = {"lost": found.lost, "wrong": found.wrong, "doubled": found.doubled}
    return {name: [job.label for job in jobs] for name, jobs in kinds.items() if jobs}


def test_a_right_batch_has_no_fault() -> None:
    assert (broken(judged()), judged().faults) == ({}, [])


@pytest.mark.parametrize(
    ("results", "errors", "expected"),
    [
        (good(1) + good(3), BAD, {"lost": ["1.4"]}),
        (RESULTS + good(4), BAD, {"doubled": ["1.4"]}),
        (RESULTS, BAD + row(4, status="expired"), {"wrong": ["1.4"], "doubled": ["1.4"]}),
        (RESULTS + good(2), b"", {"wrong": ["1.2"]}),
        (good(1) + good(3) + good(4, job=1), BAD, {"doubled": ["1.4"]}),
    ],
)
def test_each_broken_line_is_found(
    results: bytes, errors: bytes, expected: dict[str, list[str]]
) -> None:
    assert broken(judged(results, errors)) == expected


@pytest.mark.parametrize(
    ("batch", "fault"),
    [
        (judged(good(3) + good(1) + good(4)), "the results are not in the order of the input"),
        (judged(RESULTS + row(9, status="succeeded")), "unknown custom_id '1.9'"),
        (judged(RESULTS + BAD, b""), "results have 1.2, which failed"),
        (judged(shown=resource(succeeded=4)), "the outputs have"),
        (judged(shown=resource("running", succeeded=3, failed=1)), "the outputs have"),
        (judged(shown=resource(succeeded=3)), "the counts are"),
    ],
)
def test_each_fault_of_a_batch_is_found(batch: StormBatch, fault: str) -> None:
    assert any(fault in each for each in batch.faults), batch.faults


def test_a_final_batch_must_not_change() -> None:
    batch = judged()
    batch.see(resource() | {"label": "another"})
    assert "final, then changed" in batch.faults[0]


def test_counts_must_not_shrink() -> None:
    batch = accepted()
    batch.see(resource("running", succeeded=2, running=2))
    batch.see(resource("running", succeeded=1, running=3))
    assert "became smaller" in batch.faults[0]


def test_an_output_must_be_continued() -> None:
    batch = accepted()
    batch.see_output("results", good(1))
    batch.see_output("results", good(3) + good(1))
    assert batch.faults == ["the results do not continue what was read before"]


def test_one_key_makes_one_batch() -> None:
    batch = accepted()
    batch.accept(ID)
    assert batch.faults == []
    batch.accept(OTHER_ID)
    assert "one key made two batches" in batch.faults[0]


def test_each_line_has_its_own_input() -> None:
    batches = plan_batches(3, 100, seed=1)
    lines = [line for batch in batches for line in batch.lines]
    texts = {json.dumps(line.line(Path("ran"))) for line in lines}
    assert len(texts) == 300
    assert [batch.is_file for batch in batches] == [True, False, False]
    assert 0 < sum(line.is_failing for line in lines) < 60
    assert 0 < sum(line.is_large for line in lines) < 60
