"""Test how the worker measures and limits GPU memory, and what it does if the memory is used up.

The tests need a real GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from worker.memory.device import Batch, CudaDevice
from worker.memory.device_errors import BudgetExceeded, is_out_of_memory
from worker.memory.limits import DeviceLock, DeviceModel, MeasuredBatchLimit
from worker.memory.profile import MemoryProfile
from worker.models import Context
from worker.pipeline.infer import ItemRun, run_batch

pytestmark = [pytest.mark.gpu, pytest.mark.torch]

MIB = 2**20


@pytest.fixture
def card() -> Iterator[CudaDevice]:
    found = CudaDevice.find()
    assert found is not None
    found.release_cached()
    yield found
    torch.cuda.set_per_process_memory_fraction(1.0)
    found.release_cached()


class Weights:
    """A model whose tensors use `size_bytes` of GPU memory."""

    def __init__(self, size_bytes: int) -> None:
        self.tensor = torch.zeros(size_bytes, dtype=torch.uint8, device="cuda")

    def memory_bytes(self, cost: float) -> int:
        return 0


@dataclass(eq=False)
class Item:
    item: int
    cost: float = 1.0
    context: Context | None = None


def allocating(item_bytes: int) -> Any:
    """Return a model function that allocates `item_bytes` of GPU memory for each item of a batch.

    The function returns the square of each item.
    """

    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        block = torch.ones(item_bytes * len(batch), dtype=torch.uint8, device="cuda")
        assert int(block[-1]) == 1
        return [item * item for item in batch]

    return run


def limit_to(free_bytes: int) -> None:
    """Limit the GPU memory of this process, so that it can allocate only `free_bytes` more."""
    torch.cuda.empty_cache()
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    may_have = torch.cuda.memory_reserved() + free_bytes
    torch.cuda.set_per_process_memory_fraction(may_have / total_bytes)


def test_device_reports_memory_and_uuid(card: CudaDevice) -> None:
    properties = torch.cuda.get_device_properties(0)
    assert 0.85 * properties.total_memory < card.total_bytes < properties.total_memory
    assert str(properties.uuid) in card.key


def test_process_allocates_only_its_share(card: CudaDevice) -> None:
    half = CudaDevice.find(2)
    assert half is not None
    assert half.total_bytes == pytest.approx(card.total_bytes / 2, rel=0.15)
    with pytest.raises(torch.OutOfMemoryError):
        Weights(int(card.total_bytes * 0.6))


def test_model_is_measured_and_freed_after_unloading(card: CudaDevice) -> None:
    before_bytes = card.used_bytes
    weights, size_bytes = card.load(lambda: Weights(64 * MIB), 1024 * MIB)
    assert 64 * MIB <= size_bytes <= 96 * MIB
    assert card.used_bytes - before_bytes == size_bytes
    del weights
    card.unload(size_bytes)
    assert card.used_bytes == before_bytes


def test_load_beyond_the_reservation_frees_the_memory(card: CudaDevice) -> None:
    before_bytes = card.used_bytes
    with pytest.raises(BudgetExceeded) as raised:
        card.load(lambda: Weights(64 * MIB), 32 * MIB)
    assert is_out_of_memory(raised.value)
    del raised
    card.release_cached()
    assert card.used_bytes == before_bytes


def test_peak_of_a_batch_is_measured(card: CudaDevice) -> None:
    weights, _ = card.load(lambda: Weights(MIB), 1024 * MIB)
    batch = Batch(cost=8)
    with card.running(weights, batch):
        allocating(16 * MIB)([0] * 8, [])
    assert batch.measured_bytes is not None
    assert 128 * MIB <= batch.measured_bytes <= 192 * MIB


def test_out_of_memory_is_recognised(card: CudaDevice) -> None:
    limit_to(64 * MIB)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.ones(256 * MIB, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(raised.value)


def test_batch_that_does_not_fit_is_split(card: CudaDevice) -> None:
    weights, held_bytes = card.load(lambda: Weights(MIB), 1024 * MIB)
    profile = MemoryProfile(held_bytes)
    placed = DeviceModel(card, weights, profile, 8192 * MIB)
    limit = MeasuredBatchLimit("model", DeviceLock(), placed, lambda _: None)
    limit_to(200 * MIB)
    jobs = [Item(number) for number in range(16)]
    outcomes = run_batch(allocating(32 * MIB), jobs, lambda _: None, limit)
    ran = [(job, what) for job, what in outcomes if isinstance(what, ItemRun)]
    assert [what.error for _, what in ran] == [None] * 16
    assert {job.item: what.result for job, what in ran} == {n: n * n for n in range(16)}
    assert max(what.batch_size for _, what in ran) == 4
    assert limit.max_cost <= 4


def test_item_that_does_not_fit_fails_alone(card: CudaDevice) -> None:
    weights, held_bytes = card.load(lambda: Weights(MIB), 1024 * MIB)
    placed = DeviceModel(card, weights, MemoryProfile(held_bytes), 8192 * MIB)
    limit = MeasuredBatchLimit("model", DeviceLock(), placed, lambda _: None)
    limit_to(128 * MIB)

    def run(batch: list[Any], contexts: list[Context]) -> list[int]:
        return list(allocating(1024 * MIB if 3 in batch else MIB)(batch, contexts))

    ran = {
        job.item: what
        for job, what in run_batch(run, [Item(n) for n in range(8)], lambda _: None, limit)
        if isinstance(what, ItemRun)
    }
    assert {item for item, what in ran.items() if what.error} == {3}
    assert is_out_of_memory(ran[3].error) or type(ran[3].error).__name__ == "OutOfMemory"
