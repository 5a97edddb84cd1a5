"""Test the log of ends: its lines, and what one instance reads of another one's."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import FailureCode, InlineJson, JobError, JobReply, Stage
from gateway.jobs.ends import (
    MAX_LINE_BYTES,
    OVERLAP,
    EndsLog,
    JobEnd,
    encode_end,
    log_blob,
    parse_end,
)
from gateway.jobs.model import JobOutcome, outcome_to_json
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)

times = st.integers(0, 4_000_000_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
outcomes = st.one_of(
    times.map(JobOutcome.cancelled),
    times.map(JobOutcome.expired),
    st.builds(
        lambda text, at: JobOutcome.failed(
            JobError(FailureCode.UNAVAILABLE, text, Stage.QUEUE, retryable=True), at
        ),
        st.text(min_size=1, max_size=100),
        times,
    ),
    st.builds(
        lambda value, at: JobOutcome.replied(JobReply("job", InlineJson(value), at, at), at),
        values,
        times,
    ),
)
ids = st.text(min_size=1, max_size=100)


def memory() -> tuple[MemoryBlobs, ManualClock]:
    clock = ManualClock()
    return MemoryBlobs(MemoryPayloads(), clock), clock


class TestLine:
    @given(ids, outcomes)
    def test_parsed_line_is_the_encoded_end(self, job_id: str, outcome: JobOutcome) -> None:
        line = encode_end(job_id, outcome)
        assert b"\n" not in line
        assert len(line) <= MAX_LINE_BYTES
        end = parse_end(line, {job_id})
        assert end is not None
        assert end.job_id == job_id
        if end.outcome is not None:
            assert outcome_to_json(end.outcome) == outcome_to_json(outcome)

    def test_long_outcome_is_left_out(self) -> None:
        reply = JobReply("job", InlineJson("x" * MAX_LINE_BYTES), NOW, NOW)
        line = encode_end("job", JobOutcome.replied(reply, NOW))
        assert parse_end(line, {"job"}) == JobEnd("job", None)

    @given(ids, outcomes, st.data())
    def test_torn_line_is_skipped(
        self, job_id: str, outcome: JobOutcome, data: st.DataObject
    ) -> None:
        line = encode_end(job_id, outcome)
        assert parse_end(line[: data.draw(st.integers(0, len(line) - 1))], {job_id}) is None

    @given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
    def test_foreign_line_is_skipped(self, line: bytes) -> None:
        assert parse_end(line, {"job"}) is None

    def test_end_of_another_job_is_skipped(self) -> None:
        assert parse_end(encode_end("a", JobOutcome.expired(NOW)), {"b"}) is None


class TestLog:
    @given(st.lists(st.lists(ids | st.none(), max_size=5), max_size=6))
    def test_each_end_is_read_once(self, rounds: list[list[str | None]]) -> None:
        async def main() -> None:
            blobs, clock = memory()
            writer, reader = EndsLog(blobs, clock), EndsLog(blobs, clock)
            for appended in rounds:
                for job_id in appended:
                    if job_id is None:  # a torn line
                        await blobs.append(log_blob(clock()), b'{"job":"a\n')
                    else:
                        await writer.append(job_id, JobOutcome.expired(NOW))
                ids = [job_id for job_id in appended if job_id is not None]
                assert [end.job_id for end in await reader.read(ids)] == ids

        asyncio.run(main())

    async def test_unfinished_line_is_read_when_whole(self) -> None:
        blobs, clock = memory()
        line = encode_end("a", JobOutcome.expired(NOW)) + b"\n"
        reader = EndsLog(blobs, clock)
        await blobs.append(log_blob(clock()), line[:10])
        assert await reader.read({"a"}) == []
        await blobs.append(log_blob(clock()), line[10:])
        assert [end.job_id for end in await reader.read({"a"})] == ["a"]

    async def test_last_minute_is_read_a_little_longer(self) -> None:
        blobs, clock = memory()
        writer, reader = EndsLog(blobs, clock), EndsLog(blobs, clock)
        clock.now += timedelta(seconds=59.9)
        late = log_blob(clock())
        assert await reader.read({"a", "b", "c"}) == []
        clock.now += timedelta(seconds=0.2)
        await writer.append("b", JobOutcome.expired(NOW))
        await blobs.append(late, encode_end("a", JobOutcome.expired(NOW)) + b"\n")
        assert [end.job_id for end in await reader.read({"a", "b"})] == ["a", "b"]
        clock.now += OVERLAP
        await blobs.append(late, encode_end("c", JobOutcome.expired(NOW)) + b"\n")
        assert await reader.read({"a", "b", "c"}) == []

    async def test_lines_of_one_moment_share_a_request(self) -> None:
        blobs, clock = memory()
        writer = EndsLog(blobs, clock)
        ids = [str(number) for number in range(50)]
        await asyncio.gather(*(writer.append(job_id, JobOutcome.expired(NOW)) for job_id in ids))
        assert blobs.write_count <= 2
        assert len(await EndsLog(blobs, clock).read(ids)) == 50

    def test_lines_soon_after_a_request_share_the_next(self) -> None:
        async def main() -> None:
            blobs, clock = memory()
            append, writer = blobs.append, EndsLog(blobs, clock)

            async def append_slowly(blob: str, data: bytes) -> int:
                await asyncio.sleep(0.1)  # in the simulated time of the loop
                return await append(blob, data)

            blobs.append = append_slowly  # type: ignore[method-assign]  # a slow storage
            for _ in range(2):
                await writer.append("a", JobOutcome.expired(NOW))
                await asyncio.gather(
                    *(writer.append(job_id, JobOutcome.expired(NOW)) for job_id in ("b", "c"))
                )
                await asyncio.sleep(1)
            assert blobs.write_count == 4
            assert asyncio.get_running_loop().time() == pytest.approx(2 * 1.3)

        run(main())
