"""Test the wake-ups of batches, and the entries of their logs of ends."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.batches.ends import encode_end, parse_end
from gateway.batches.wake import PAUSE_SECONDS, BatchWaker
from gateway.errors import UnknownInstance
from gateway.jobs.model import JobOutcome, outcome_to_json
from tests.unit.gateway.memory import ManualClock, MemoryDurable
from tests.unit.gateway.skipping import run


class Events(MemoryDurable):
    """Records the events, with their times, and loses the first `lost` ones."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__(ManualClock(), lambda _: asyncio.sleep(0, None))
        self.raised: list[tuple[float, str]] = []
        self.lost = lost

    async def raise_event(self, job_id: str, name: str, data: Any) -> None:
        self.raised.append((asyncio.get_running_loop().time(), job_id))
        if self.lost:
            self.lost -= 1
            raise UnknownInstance(job_id)


def test_many_ends_raise_one_event() -> None:
    async def main() -> None:
        waker, events = BatchWaker(), Events()
        for _ in range(100):
            waker.wake(events, "a")
        await asyncio.sleep(10)
        assert events.raised == [(PAUSE_SECONDS, "batch-a")]

    run(main())


def test_end_after_an_event_raises_another() -> None:
    async def main() -> None:
        waker, events = BatchWaker(), Events(lost=1)
        for _ in range(12):
            waker.wake(events, "a")
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        assert [at for at, _ in events.raised] == pytest.approx([0.5, 1.0, 1.5], abs=0.11)

    run(main())


def test_many_batches_share_the_rate() -> None:
    async def main() -> None:
        waker, events = BatchWaker(), Events()
        for number in range(100):
            waker.wake(events, str(number))
        await asyncio.sleep(20)
        assert len({batch for _, batch in events.raised}) == 100
        assert events.raised[-1][0] == pytest.approx(5, abs=0.1)

    run(main())


class TestEntry:
    @pytest.mark.parametrize("model", [None, "noop:2"])
    def test_end_comes_back(self, model: str | None) -> None:
        outcome = JobOutcome.expired(datetime(2026, 1, 1, tzinfo=UTC))
        assert parse_end(encode_end(7, outcome, model)) == (7, model, outcome_to_json(outcome))

    @pytest.mark.parametrize("entry", [b"", b"[1]", b'{"n":"1","outcome":{}}', b'{"n":1}', b"\xff"])
    def test_what_is_no_entry_is_skipped(self, entry: bytes) -> None:
        assert parse_end(entry) is None
