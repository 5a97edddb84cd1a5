"""Test that the counts of jobs in each minute are complete, and shared by all gateway processes."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.messages import FailureCode
from contract.names import SUMS
from gateway.errors import Unavailable
from gateway.operations.sums import (
    MAX_PROCESSES,
    SUMS_KEPT,
    MinuteSums,
    ProcessSums,
    decode_sums,
    encode_sums,
    merge_minutes,
    quantile,
)
from gateway.telemetry import BUCKET_SECONDS, KEPT_MINUTES, Histogram, JobCounters
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = int(NOW.timestamp() // 60)


class Process:
    """The counters of one gateway process, and the blobs that all gateway processes share."""

    def __init__(self, blobs: MemoryBlobs, *, is_enabled: bool = True) -> None:
        self.counters = JobCounters(blobs.clock)
        self.sums = MinuteSums(blobs, self.counters, blobs.clock, is_enabled=is_enabled)


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs(MemoryPayloads(), ManualClock())


def names_of(blobs: MemoryBlobs) -> list[str]:
    return [name for name in blobs.payloads.blobs if name.startswith(SUMS)]


events = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["accepted", "succeeded", "failed", "cancelled", "expired"]),
    st.sampled_from(["boom", "slow"]),
    st.floats(0, 5000),
)


def replay(counters: JobCounters, clock: ManualClock, found: list[Any]) -> None:
    for minute, model, status, code, seconds in found:
        clock.now = NOW + timedelta(minutes=minute)
        if status == "accepted":
            counters.record_accepted(model)
        else:
            counters.record_end(model, status, code, (seconds, seconds / 2), (seconds, minute))


@given(st.lists(events, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_merged_counts_equal_those_of_one_process(found: list[Any], shares: list[bool]) -> None:
    clock = ManualClock()
    one, first, second = (JobCounters(clock) for _ in range(3))
    for event, is_first in zip(found, shares, strict=False):
        replay(one, clock, [event])
        replay(first if is_first else second, clock, [event])
    processes = [decode_sums("p", encode_sums(each, clock.now)) for each in (one, first, second)]
    together = merge_minutes([processes[0]])
    apart = merge_minutes(processes[1:])
    assert apart.keys() == together.keys()
    for minute, sums in together.items():
        assert apart[minute].keys() == sums.keys()
        for model, each in sums.items():
            other = apart[minute][model]
            assert (each.accepted, each.succeeded, each.failed) == (
                *(other.accepted, other.succeeded, other.failed),
            )
            assert (each.cancelled, each.expired) == (other.cancelled, other.expired)
            assert each.wait.counts == other.wait.counts
            assert each.run.sum_seconds == pytest.approx(other.run.sum_seconds, abs=0.01)
            assert (each.chunks, each.first_chunk.counts) == (
                *(other.chunks, other.first_chunk.counts),
            )
            assert each.failed_at_seconds == other.failed_at_seconds


@given(st.lists(st.floats(0.0011, 2000), min_size=1, max_size=200))
def test_quantile_is_exact_up_to_a_factor_of_1_42(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.observe(duration)
    for share in (0.5, 0.95):
        exact = sorted(durations)[max(0, -(-int(share * 100) * len(durations) // 100) - 1)]
        found = quantile(histogram, share)
        assert found is not None
        assert exact / 1.42 <= found <= exact * 1.42


def test_implausible_durations_are_ignored() -> None:
    histogram = Histogram()
    for seconds in (-1.0, float("nan"), float("inf"), 1e12):
        histogram.observe(seconds)
    assert histogram == Histogram()
    histogram.observe(BUCKET_SECONDS[-1] * 10)
    assert quantile(histogram, 0.5) == BUCKET_SECONDS[-1]
    assert quantile(Histogram(), 0.5) is None


async def test_counts_of_another_process_are_read(blobs: MemoryBlobs) -> None:
    first, second = Process(blobs), Process(blobs)
    first.counters.record_accepted("noop")
    second.counters.record_end("noop", "failed", "boom", None)
    await second.sums.write()
    merged = merge_minutes(await first.sums.read())[MINUTE]["noop"]
    assert (merged.accepted, merged.failed) == (1, Counter(boom=1))
    # The change is not lost if the first process dies now: the second one has not read it yet.
    await first.sums.write()
    seen = merge_minutes(await second.sums.read())[MINUTE]["noop"]
    assert (seen.accepted, seen.failed) == (1, Counter(boom=1))


async def test_one_blob_is_written_only_after_a_change(blobs: MemoryBlobs) -> None:
    process = Process(blobs)
    await process.sums.write()
    assert names_of(blobs) == []
    for _ in range(3):
        process.counters.record_accepted("noop")
        await process.sums.write()
        await process.sums.write()
    assert len(names_of(blobs)) == 1
    assert blobs.write_count == 3
    assert await process.sums.read() == [process.sums.own]


async def test_changed_counts_are_written_at_the_end(blobs: MemoryBlobs) -> None:
    process = Process(blobs)
    before = asyncio.all_tasks()
    process.counters.record_accepted("noop")
    (pending,) = asyncio.all_tasks() - before
    await asyncio.sleep(0)
    pending.cancel()
    await asyncio.wait([pending])
    (name,) = names_of(blobs)
    written = decode_sums("p", blobs.payloads.blobs[name][1])
    assert written.minutes[MINUTE]["noop"].accepted == 1


async def test_failure_is_logged_once_and_counts_are_kept(
    blobs: MemoryBlobs, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(blobs)
    process.counters.record_accepted("noop")
    blobs.payloads.is_down = True
    for _ in range(3):
        await process.sums.write()
    assert len([record for record in caplog.records if "counts of jobs" in record.message]) == 1
    blobs.payloads.is_down = False
    await process.sums.write()
    assert len(names_of(blobs)) == 1


async def test_deleted_blob_is_written_again(blobs: MemoryBlobs) -> None:
    process = Process(blobs)
    for _ in range(2):
        process.counters.record_accepted("noop")
        await process.sums.write()
        await blobs.delete(names_of(blobs)[0])
    process.counters.record_accepted("noop")
    await process.sums.write()
    written = decode_sums("p", blobs.payloads.blobs[names_of(blobs)[0]][1])
    assert written.totals["noop"].accepted == 3


async def test_blob_is_written_again_after_a_lost_response(blobs: MemoryBlobs) -> None:
    process = Process(blobs)
    process.counters.record_accepted("noop")
    await process.sums.write()
    (name,) = names_of(blobs)
    # The storage has taken a write, but the process does not know the new ETag.
    blobs.put(name, blobs.payloads.blobs[name][1])
    process.counters.record_accepted("noop")
    await process.sums.write()
    written = decode_sums("p", blobs.payloads.blobs[name][1])
    assert written.totals["noop"].accepted == 2


async def test_disabled_process_has_only_its_own_counts(blobs: MemoryBlobs) -> None:
    other, silent = Process(blobs), Process(blobs, is_enabled=False)
    for process in (other, silent):
        process.counters.record_accepted("noop")
        await process.sums.write()
    assert len(names_of(blobs)) == 1
    assert await silent.sums.read() == [silent.sums.own]


async def test_counts_of_a_past_hour_are_ignored(blobs: MemoryBlobs) -> None:
    first, second = Process(blobs), Process(blobs)
    second.counters.record_accepted("noop")
    await second.sums.write()
    blobs.clock.now += SUMS_KEPT + timedelta(seconds=1)
    assert await first.sums.read() == [first.sums.own]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"version": 2, "minutes": {}, "totals": {}}', b'{"version": 1}']
)
async def test_unreadable_counts_are_left_out(
    blobs: MemoryBlobs, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    process = Process(blobs)
    blobs.put(f"{SUMS}other", data)
    for _ in range(2):
        assert await process.sums.read() == [process.sums.own]
    assert len([record for record in caplog.records if "sums/other" in record.message]) == 1


async def test_only_changed_blobs_are_read_again(blobs: MemoryBlobs) -> None:
    reader = Process(blobs)
    others = [Process(blobs) for _ in range(3)]
    for process in others:
        process.counters.record_accepted("noop")
        await process.sums.write()
    read: list[str] = []
    real = blobs.read

    async def counted(blob: str) -> Any:
        read.append(blob)
        return await real(blob)

    blobs.read = counted  # type: ignore[method-assign]  # counts the reads
    await reader.sums.read()
    await reader.sums.read()
    assert len(read) == 3
    others[0].counters.record_accepted("noop")
    await others[0].sums.write()
    processes = await reader.sums.read()
    assert len(read) == 4
    assert merge_minutes(processes)[MINUTE]["noop"].accepted == 4


def test_minutes_are_kept_for_an_hour() -> None:
    clock = ManualClock()
    counters = JobCounters(clock)
    for _ in range(3 * KEPT_MINUTES):
        counters.record_accepted("noop")
        clock.now += timedelta(minutes=1)
    written = decode_sums("p", encode_sums(counters, clock.now))
    assert len(counters.minutes) == KEPT_MINUTES + 1
    assert len(written.minutes) == KEPT_MINUTES
    assert written.totals["noop"].accepted == 3 * KEPT_MINUTES


def test_invented_codes_count_as_other() -> None:
    clock = ManualClock()
    counters = JobCounters(clock)
    for number in range(200):
        counters.record_end("noop", "failed", f"code-{number}", None)
        clock.now += timedelta(seconds=10)
    for code in ("x" * 65, 'a"b', "a\nb", "é"):
        counters.record_end("noop", "failed", code, None)
    counters.record_end("noop", "failed", FailureCode.OUT_OF_MEMORY, None)
    failed = counters.totals["noop"].failed
    assert set(failed) == {*(f"code-{n}" for n in range(30)), "other", "out-of-memory"}
    assert failed["other"] == 174
    assert failed.total() == 205
    hour = merge_minutes([ProcessSums("p", counters.minutes, {})])
    assert set().union(*(sums["noop"].failed for sums in hour.values())) == set(failed)


def test_empty_queue_changes_no_count() -> None:
    counters = JobCounters(ManualClock())
    counters.record_waiting("noop", 0)
    assert counters.change_count == 0
    counters.record_waiting("noop", 3)
    counters.record_waiting("noop", 0)
    counters.record_waiting("noop", 0)
    assert counters.change_count == 2
    assert counters.minutes[MINUTE]["noop"].waiting == 3


def test_heartbeats_and_sums_of_a_busy_hour_are_small() -> None:
    clock = ManualClock()
    counters = JobCounters(clock)
    for minute in range(KEPT_MINUTES):
        clock.now = NOW + timedelta(minutes=minute)
        for number in range(100):
            counters.record_accepted("classifier")
            seconds = 0.01 * 1.1 ** (number % 60)
            counters.record_end("classifier", "succeeded", None, (seconds, seconds / 3))
        counters.record_end("classifier", "failed", "inference-failed", None)
        counters.record_waiting("classifier", minute + 1)
    assert len(encode_sums(counters, clock.now)) < 32 * 1024
    models = tuple(
        ModelHeartbeat(name, ModelState.LOADED, None, None, 3.21, 4, 8, 2 << 30)
        for name in ("classifier", "voice-activity", "noop")
    )
    beat = Heartbeat("worker-5f9c7d-41", "0.1.0", NOW, 5.0, False, "L4", 24 << 30, 8 << 30, models)
    assert len(encode_heartbeat(beat)) < 1024


async def test_number_of_processes_is_limited(blobs: MemoryBlobs) -> None:
    for number in range(MAX_PROCESSES + 5):
        counters = JobCounters(blobs.clock)
        counters.record_accepted("noop")
        blobs.put(f"{SUMS}{number:04d}", encode_sums(counters, NOW))
    assert len(await Process(blobs).sums.read()) == 1 + MAX_PROCESSES


async def test_silent_storage_raises_unavailable(blobs: MemoryBlobs) -> None:
    blobs.payloads.is_down = True
    with pytest.raises(Unavailable):
        await Process(blobs).sums.read()


def test_counts_are_named_in_json() -> None:
    counters = JobCounters(ManualClock())
    counters.record_accepted("noop")
    counters.record_end("noop", "succeeded", None, (0.5, 0.25))
    value = json.loads(encode_sums(counters, NOW))
    assert value["totals"] == {
        "noop": {
            "accepted": 1,
            "succeeded": 1,
            "wait": {"sum": 0.5, "18": 1},
            "run": {"sum": 0.25, "16": 1},
        }
    }
