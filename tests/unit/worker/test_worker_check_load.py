"""Test the measurement of a model under load, and the settings that a measurement suggests."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from contract.catalogue import Catalogue, ModelEntry
from contract.messages import InlineJson, JobReply, Timing
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_checks import ModelKind
from worker.models import Accepts, Context
from worker.settings import MemorySettings
from worker.tools.check_load import (
    BatchThroughput,
    LoadFailed,
    LoadMeasurement,
    LoadResult,
    ModelInput,
    measure_batches,
    suggest,
)

NOOP = Catalogue.load()["noop"]


def result(batch_size: int, per_second: float, batch_ms: float, p95_ms: float = 9.0) -> LoadResult:
    """Return an invented measurement of 100 batches, whose mean time is `batch_ms`."""
    items = batch_size * 100
    throughput = BatchThroughput(items, 100, items / per_second, batch_ms / 10)
    return LoadResult(batch_size, throughput, (1.0, p95_ms))


@pytest.mark.parametrize(
    ("rates", "size", "reason"),
    [
        ({1: 10, 2: 15, 4: 20}, 4, "the highest throughput, 20.0 items/s, with a p95 of 9 ms"),
        (
            {1: 10, 2: 19.5, 4: 20},
            2,
            "19.5 items/s, and batches of 4 have only 20.0 items/s, with a p95 of 9 ms",
        ),
        ({1: 20, 2: 10, 4: 5}, 1, "the highest throughput, 20.0 items/s, with a p95 of 9 ms"),
    ],
)
def test_smallest_size_with_most_throughput_is_suggested(
    rates: dict[int, float], size: int, reason: str
) -> None:
    found = suggest([result(each, rate, 100.0) for each, rate in rates.items()], 1.0)
    assert found.max_batch_size == size
    assert found.size_reason == reason


@pytest.mark.parametrize(
    ("prepare_ms", "wait_ms", "reason"),
    [
        # Four threads prepare four inputs in one turn.
        (3.0, 3, "prepare the other inputs of a batch in 3.0 ms"),
        (500.0, 20, "a tenth of the 200.0 ms that a batch runs"),
    ],
)
def test_suggested_wait_is_a_tenth_of_the_run_at_most(
    prepare_ms: float, wait_ms: int, reason: str
) -> None:
    found = suggest([result(1, 5, 100.0), result(4, 20, 200.0)], prepare_ms)
    assert (found.max_batch_size, found.max_wait_ms) == (4, wait_ms)
    assert reason in found.wait_reason


def test_batch_of_one_does_not_wait() -> None:
    assert suggest([result(1, 20, 50.0), result(2, 20, 100.0)], 10.0).max_wait_ms == 0


def test_percentile_is_the_nearest_rank() -> None:
    latencies = tuple(float(number) for number in range(1, 101))
    measured = replace(result(1, 1, 1.0), latencies_ms=latencies)
    assert (measured.percentile_ms(50), measured.percentile_ms(95)) == (50.0, 95.0)
    assert replace(measured, latencies_ms=(7.0,)).percentile_ms(95) == 7.0


def test_throughput_is_from_first_start_to_last_end() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    replies = [
        JobReply(
            f"job-{number}",
            InlineJson(None),
            start + timedelta(seconds=number // 2),
            start + timedelta(seconds=9),
            Timing(0.0, 500.0, 2),
        )
        for number in range(4)
    ]
    found = measure_batches(replies)
    assert (found.items, found.batches, found.seconds, found.busy_seconds) == (4, 2, 1.5, 1.0)
    assert (found.per_second, found.batch_ms) == (4 / 1.5, 500.0)


def measurement(model: ModelEntry, data: bytes, folder: Path) -> LoadMeasurement:
    memory = MemorySettings(folder=folder, is_admitting=False)
    sample = ModelInput(data, "text/plain")
    return LoadMeasurement(model, LoadedModel.load(model, 1), sample, memory)


def test_load_fills_batches_on_worker_threads(tmp_path: Path) -> None:
    # The input does not fit into a message, so it is read from a blob.
    load = measurement(NOOP, b"x" * 200_000, tmp_path)
    small, large = load.measure(1, 8), load.measure(4, 16)
    assert small.throughput.items == len(small.latencies_ms) > 6
    # Two batches that start in the same millisecond count as one.
    assert small.throughput.items / small.throughput.batches < 1.2
    assert 1 < large.throughput.items / large.throughput.batches < 4 * 1.2
    assert 0 < large.percentile_ms(50) <= large.percentile_ms(95)


class Waiting:
    accepts: ClassVar[Accepts] = "text"
    is_closed = False

    async def __call__(self, text: str, context: Context) -> int:
        assert not self.is_closed
        await asyncio.sleep(0.02)
        return len(text)

    def close(self) -> None:
        self.is_closed = True


def test_load_runs_concurrent_jobs_at_once(tmp_path: Path) -> None:
    model = replace(NOOP, reports_progress=True, media_types=("text/plain",))
    memory = MemorySettings(folder=tmp_path, is_admitting=False)
    loaded = LoadedModel(model, Waiting())
    load = LoadMeasurement(model, loaded, ModelInput(b"abc", "text/plain"), memory)
    one, four = load.measure(1, 4), load.measure(4, 4)
    assert four.throughput.per_second > 2 * one.throughput.per_second
    assert suggest([one, four], 1.0, ModelKind.CONCURRENT).max_batch_size == 4


def test_failed_job_fails_the_measurement(tmp_path: Path) -> None:
    model = replace(NOOP, max_input_bytes=3, max_upload_bytes=3)
    with pytest.raises(LoadFailed, match="the input has 4 bytes; at most 3 bytes") as failed:
        measurement(model, b"four", tmp_path).measure(1, 1)
    assert failed.value.code == "invalid-input"
