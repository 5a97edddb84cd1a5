"""Test that each job of a batch has one outcome, and how the batch limit is reduced."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Cancelled, DeviceLost, InvalidInput, NotWaitedFor, OutOfMemory
from worker.memory.device_errors import BudgetExceeded
from worker.memory.limits import BatchLimit, DeviceLock
from worker.models import Context
from worker.pipeline.infer import ItemRun, run_batch


@dataclass(eq=False)
class Item:
    item: int
    cost: float = 1.0
    context: Context | None = None


class RecordingLimit(BatchLimit):
    """A batch limit that records the costs of the batches that it admits.

    `costs` has the cost of each batch. `alone` has only the costs of the batches that use the
    device exclusively.
    """

    def __init__(self) -> None:
        super().__init__("model", DeviceLock())
        self.costs: list[float] = []
        self.alone: list[float] = []

    @contextlib.contextmanager
    def admit_batch(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        self.costs.append(cost)
        if is_exclusive:
            self.alone.append(cost)
        with super().admit_batch(cost, is_exclusive=is_exclusive):
            yield


@dataclass
class Model:
    """A model that squares numbers.

    It raises an error if a batch has more than `fits` items or contains a number in `bad`.
    """

    bad: set[int] = field(default_factory=set)
    fits: float = math.inf
    passes: list[list[int]] = field(default_factory=list)

    def __call__(self, batch: list[Any], contexts: list[Context]) -> list[int]:
        self.passes.append(batch)
        if len(batch) > self.fits:
            raise BudgetExceeded("no room")
        for item in batch:
            if item in self.bad:
                raise InvalidInput(f"item {item} is bad")
        return [item * item for item in batch]


def run_all(run: Any, items: Sequence[Item], limit: BatchLimit) -> list[tuple[Item, ItemRun]]:
    """Run all items as one batch, and return each item with its outcome. No job is cancelled."""
    ran: list[tuple[Item, ItemRun]] = []
    for item, outcome in run_batch(run, items, lambda _: None, limit):
        assert isinstance(outcome, ItemRun)
        ran.append((item, outcome))
    return ran


def outcomes(model: Model, count: int, limit: BatchLimit | None = None) -> dict[int, ItemRun]:
    items = [Item(number) for number in range(count)]
    ran = run_all(model, items, limit or BatchLimit("model", DeviceLock()))
    assert len(ran) == count, "each item has one outcome"
    return {item.item: what for item, what in ran}


def test_good_batch_runs_in_one_pass() -> None:
    model = Model()
    ran = outcomes(model, 5)
    assert {item: what.result for item, what in ran.items()} == {n: n * n for n in range(5)}
    assert {what.batch_size for what in ran.values()} == {5}
    assert model.passes == [[0, 1, 2, 3, 4]]


def test_only_bad_jobs_of_a_batch_fail() -> None:
    bad = set(range(0, 64, 8))
    ran = outcomes(Model(bad), 64)
    failed = {item: str(what.error) for item, what in ran.items() if what.error}
    assert failed == {item: f"item {item} is bad" for item in bad}
    assert all(what.result == item * item for item, what in ran.items() if item not in bad)


@given(count=st.integers(1, 64), bad=st.sets(st.integers(0, 63), max_size=6))
def test_bad_jobs_are_found_in_few_passes(count: int, bad: set[int]) -> None:
    bad = {item for item in bad if item < count}
    model = Model(bad)
    ran = outcomes(model, count)
    assert {item for item, what in ran.items() if what.error} == bad
    depth = math.ceil(math.log2(count)) if count > 1 else 0
    assert len(model.passes) <= 1 + 2 * len(bad) * depth


def test_cancelled_job_does_not_run_again() -> None:
    gone: set[int] = set()

    class Cancels(Model):
        def __call__(self, batch: list[Any], contexts: list[Context]) -> list[int]:
            if 2 in batch:
                gone.add(2)
                self.passes.append(batch)
                raise Cancelled("item 2 was cancelled while it ran")
            return super().__call__(batch, contexts)

    model = Cancels()
    items = [Item(number) for number in range(4)]
    reason = NotWaitedFor("cancelled")
    limit = BatchLimit("m", DeviceLock())
    ran = list(run_batch(model, items, lambda job: reason if job.item in gone else None, limit))
    assert [(job.item, what) for job, what in ran if not isinstance(what, ItemRun)] == [(2, reason)]
    results = [(job.item, what.result) for job, what in ran if isinstance(what, ItemRun)]
    assert results == [(0, 0), (1, 1), (3, 9)]
    assert model.passes == [[0, 1, 2, 3], [0, 1, 3]], "the other items ran again in one batch"


def test_too_large_batch_is_split_and_lowers_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    limit = RecordingLimit()
    model = Model(fits=5)
    ran = outcomes(model, 16, limit)
    assert all(what.error is None for what in ran.values())
    assert limit.max_cost == 4
    assert limit.alone == []
    assert [len(batch) for batch in model.passes] == [16, 8, 4, 4, 8, 4, 4]
    assert "later batches have a size of at most 4" in caplog.text


@pytest.mark.torch
def test_batch_beyond_host_memory_is_split() -> None:
    torch = pytest.importorskip("torch")

    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        torch.empty(2**60 * (len(batch) // 3))
        return batch

    limit = BatchLimit("model", DeviceLock())
    ran = run_all(run, [Item(n) for n in range(8)], limit)
    assert [what.error for _, what in ran] == [None] * 8
    assert limit.max_cost == 2


@pytest.mark.parametrize("surprise", [SystemExit("a model that exits"), KeyboardInterrupt()])
def test_system_exit_fails_one_job(surprise: BaseException) -> None:
    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        if 2 in batch:
            raise surprise
        return batch

    ran = run_all(run, [Item(n) for n in range(4)], BatchLimit("m", DeviceLock()))
    assert {job.item: what.error for job, what in ran if what.error} == {2: surprise}


def test_job_too_large_for_the_whole_device_fails() -> None:
    class Large(Model):
        def __call__(self, batch: list[Any], contexts: list[Context]) -> list[int]:
            if 1 in batch:
                raise BudgetExceeded("no room")
            return super().__call__(batch, contexts)

    limit = RecordingLimit()
    ran = outcomes(Large(), 4, limit)
    assert limit.alone == [1.0]
    assert limit.costs[-1] == 1.0
    error = ran[1].error
    assert isinstance(error, OutOfMemory)
    assert error.to_job_error().retryable
    assert error.code == "out-of-memory"
    assert [ran[item].result for item in (0, 2, 3)] == [0, 4, 9]


def test_too_large_job_runs_again_alone_on_the_device() -> None:
    tries: list[list[int]] = []

    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        tries.append(batch)
        if len(tries) < 2:
            raise BudgetExceeded("another model was in the way")
        return batch

    ran = run_all(run, [Item(7)], BatchLimit("m", DeviceLock()))
    assert [(job.item, what.result, what.error) for job, what in ran] == [(7, 7, None)]


def test_too_large_item_does_not_lower_the_limit() -> None:
    limit = BatchLimit("m", DeviceLock())
    outcomes(Model(fits=0), 1, limit)
    assert limit.max_cost == math.inf


def test_lost_device_ends_the_batch() -> None:
    passes = []

    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        passes.append(batch)
        raise RuntimeError("CUDA error: device-side assert triggered")

    items = [Item(number) for number in range(4)]
    ran = run_all(run, items, BatchLimit("m", DeviceLock()))
    assert len(passes) == 1
    assert [job.item for job, _ in ran] == [0, 1, 2, 3]
    assert all(isinstance(what.error, DeviceLost) for _, what in ran)


def test_each_pass_is_watched() -> None:
    seen: list[list[int]] = []

    @contextlib.contextmanager
    def watching(jobs: Sequence[Item]) -> Iterator[None]:
        yield
        seen.append([job.item for job in jobs])

    items = [Item(number) for number in range(3)]
    model = Model(bad={2})
    list(run_batch(model, items, lambda _: None, BatchLimit("m", DeviceLock()), watching))
    # The watcher does not see passes that raise.
    assert seen == [[0, 1]]
    assert model.passes == [[0, 1, 2], [0, 1], [2]]
