"""Test the class `Network` on a GPU. test_worker_network.py tests it on any device."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from worker.models.network import Network

pytestmark = [pytest.mark.gpu, pytest.mark.torch]


def network_of(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


def pictures(count: int, side: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side, generator=generator) for _ in range(count)]


def expected(items: list[Tensor], width: int = 32) -> Tensor:
    with torch.inference_mode():
        output: Tensor = network_of(width).eval()(torch.stack(items))
        return output


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-2), ("float16", 2e-2), ("bfloat16", 1e-1)]
)
def test_each_precision_is_near_the_cpu(precision: str, tolerance: float) -> None:
    network, items = Network(network_of(32), precision=precision), pictures(16)
    outputs = network([network.stage(item) for item in items])
    assert outputs.dtype is torch.float32
    assert outputs.device.type == "cpu"
    torch.testing.assert_close(outputs, expected(items), rtol=tolerance, atol=tolerance)


def test_half_precision_needs_half_the_memory() -> None:
    def taken_bytes(precision: str) -> int:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        network = Network(nn.Linear(4096, 4096, bias=False), precision=precision)
        taken = torch.cuda.memory_allocated() - before
        del network
        return taken

    assert taken_bytes("float16") == taken_bytes("float32") // 2 == 4096 * 4096 * 2


def test_staging_copies_to_the_gpu() -> None:
    network = Network(network_of(8))
    assert network.stage(pictures(1)[0]).device.type == "cuda"


def test_order_is_kept_while_items_are_copied() -> None:
    """Copy 2,000 items to the GPU from four threads while batches run. Check each item's output."""
    network = Network(nn.Flatten())
    items = [torch.full((3, 32, 32), float(number)) for number in range(200)] * 10

    def outputs() -> Iterator[Tensor]:
        with ThreadPoolExecutor(4) as threads:
            staged = threads.map(network.stage, items)
            while batch := list(islice(staged, 16)):
                yield network(batch)

    found = torch.cat(list(outputs()))
    assert torch.equal(found.amin(dim=1), found.amax(dim=1))
    assert found[:, 0].tolist() == [float(number) for number in range(200)] * 10


def test_item_that_does_not_fit_waits_in_host_memory() -> None:
    network, item = Network(network_of(8)), torch.zeros(3, 2048, 2048)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0001)
    try:
        staged = network.stage(item)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert staged.device.type == "cpu"
    assert staged.is_pinned()
    assert network([staged]).shape == (1, 10)


# Inductor warns about performance, and is slow at the first call.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
def test_inductor_keeps_the_outputs() -> None:
    pytest.importorskip("triton")
    network, items = Network(network_of(32), compiler="inductor"), pictures(8)
    for count in (8, 3, 5):
        outputs = network([network.stage(item) for item in items[:count]])
        torch.testing.assert_close(outputs, expected(items[:count]), rtol=1e-2, atol=1e-2)


def test_equal_items_have_equal_outputs() -> None:
    network = Network(nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(20)]))
    items = [torch.ones(2048) for _ in range(64)]
    torch.testing.assert_close(network(items), network(items))


def test_repeated_loads_do_not_grow_the_memory() -> None:
    def held_bytes() -> int:
        network = Network(nn.Linear(1024, 1024))
        network([torch.ones(1024)] * 32)
        del network
        # This also frees memory that earlier tests have left.
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = held_bytes()
    assert [held_bytes() for _ in range(20)] == [first] * 20
