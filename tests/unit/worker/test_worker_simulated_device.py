"""Test the simulated device, whose memory limit applies to all processes together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.child_processes import running_child
from worker.memory.device import Batch
from worker.memory.device_errors import BudgetExceeded
from worker.memory.simulated_device import AccountRecord, MemoryAccount, SimulatedDevice

CHILD = """
import sys
from pathlib import Path
from worker.memory.simulated_device import MemoryAccount
MemoryAccount(Path(sys.argv[1]), 8).charge(int(sys.argv[2]))
print("up", flush=True)
sys.stdin.read()
"""


class Declares:
    """A model that occupies 2 bytes, and 1 more byte for each unit of the running batch's cost."""

    def memory_bytes(self, cost: float) -> int:
        return 2 + int(cost)


def test_memory_of_an_ended_process_no_longer_counts(tmp_path: Path) -> None:
    account = MemoryAccount(tmp_path, 8)
    with running_child(CHILD, tmp_path, 5):
        account.charge(3)
        with pytest.raises(BudgetExceeded, match="of the budget of 8"):
            account.charge(1)
        assert AccountRecord.read(tmp_path) == AccountRecord(peak_bytes=8, refused_count=1)
    account.charge(5)
    account.release(8)
    assert AccountRecord.read(tmp_path) == AccountRecord(peak_bytes=8, refused_count=1)


@pytest.fixture(scope="module")
def shared_account(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryAccount, Path]:
    folder = tmp_path_factory.mktemp("account")
    return MemoryAccount(folder, 8), folder


@given(charges=st.lists(st.integers(-6, 6), max_size=30))
def test_memory_in_use_never_exceeds_the_budget(
    shared_account: tuple[MemoryAccount, Path], charges: list[int]
) -> None:
    account, folder = shared_account
    account.release(account.used_bytes)
    AccountRecord().write(folder)
    used = peak = refused = 0
    for size in charges:
        if size < 0:
            given_back = min(-size, used)
            account.release(given_back)
            used -= given_back
        elif used + size > 8:
            with pytest.raises(BudgetExceeded):
                account.charge(size)
            refused += 1
        else:
            account.charge(size)
            used += size
            peak = max(peak, used)
    assert AccountRecord.read(folder) == AccountRecord(peak, refused)


def test_declared_memory_counts_while_loaded(tmp_path: Path) -> None:
    account = MemoryAccount(tmp_path, 8)
    device = SimulatedDevice(account, 8)
    holder, resident_bytes = device.load(Declares, limit_bytes=8)
    assert resident_bytes == 2
    batch = Batch(cost=4)
    with device.running(holder, batch):
        assert account.used_bytes == 6
    assert (batch.measured_bytes, account.used_bytes) == (4, 2)
    with pytest.raises(BudgetExceeded), device.running(holder, Batch(cost=7)):
        raise AssertionError("it does not run")
    with device.running(holder, Batch(cost=1, known_bytes=3)):
        assert account.used_bytes == 5
    device.unload(resident_bytes)
    assert account.used_bytes == 0


def test_trial_beyond_the_reservation_fails(tmp_path: Path) -> None:
    account = MemoryAccount(tmp_path, 8)
    device = SimulatedDevice(account, 8)
    with pytest.raises(BudgetExceeded, match="only 1 are reserved"):
        device.load(Declares, limit_bytes=1)
    holder, _ = device.load(Declares, limit_bytes=2)
    with pytest.raises(BudgetExceeded), device.running(holder, Batch(cost=3, limit_bytes=2)):
        raise AssertionError("it does not run")
    assert account.used_bytes == 2
    assert AccountRecord.read(tmp_path).refused_count == 0, (
        "the limit of the trial was exceeded, not the budget"
    )


def test_failed_batch_releases_its_memory(tmp_path: Path) -> None:
    account = MemoryAccount(tmp_path, 8)
    device = SimulatedDevice(account, 8)
    holder, _ = device.load(Declares, limit_bytes=8)
    batch = Batch(cost=3)
    with pytest.raises(KeyError), device.running(holder, batch):
        raise KeyError
    assert (account.used_bytes, batch.measured_bytes) == (2, None)


@pytest.mark.torch
def test_tensors_are_counted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Network:
        def __init__(self) -> None:
            layers = torch.nn.Linear(100, 1000, bias=False), torch.nn.ReLU()
            self.parts = {"network": torch.nn.Sequential(*layers), "table": torch.zeros(10)}
            self.twice = self.parts["table"].view(5, 2)

        def memory_bytes(self, cost: float) -> int:
            return 0

        def run(self, count: int) -> object:
            values = torch.zeros(count, 100)
            for _ in range(50):
                values = values + 1
            return self.parts["network"](values)

    account = MemoryAccount(tmp_path, 10**7)
    device = SimulatedDevice(account, 10**7)
    holder, resident_bytes = device.load(Network, limit_bytes=10**7)
    assert resident_bytes == 4 * (100 * 1000 + 10)
    measured = []
    for count in (1, 8):
        batch = Batch(cost=count)
        with torch.inference_mode(), device.running(holder, batch):
            holder.run(count)
        measured.append(batch.measured_bytes)
    # The input, the product and the last output: earlier tensors are freed.
    assert measured == [4 * (100 + 2 * 1000), 8 * 4 * (100 + 2 * 1000)]

    large = Batch(cost=10_000)
    with pytest.raises(BudgetExceeded), torch.inference_mode(), device.running(holder, large):
        holder.run(10_000)
    assert account.used_bytes == resident_bytes
