"""Test the limit on the GPU memory that models may use. `./dev gpu` tests a real GPU."""

import pytest

from worker.memory.device import usable_bytes

GIB = 2**30


@pytest.mark.parametrize("all_gib", [8, 16, 24, 80])
@pytest.mark.parametrize("shares", [1, 2, 4, 10])
def test_the_memory_shares_and_cuda_contexts_of_all_processes_fit_into_the_gpu_memory(
    all_gib: int, shares: int
) -> None:
    each_bytes = usable_bytes(all_gib * GIB, shares)
    assert shares * (each_bytes + GIB // 2) <= all_gib * GIB
    assert shares * each_bytes <= all_gib * GIB * 0.94


def test_the_usable_gpu_memory_is_94_percent_or_less_if_the_cuda_contexts_need_more() -> None:
    assert usable_bytes(80 * GIB, 1) == pytest.approx(80 * GIB * 0.94)
    assert usable_bytes(16 * GIB, 4) == 3.5 * GIB
    assert usable_bytes(GIB, 4) == 0
