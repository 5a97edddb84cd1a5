"""Test that a lock journal keeps the tokens of all unsettled messages if its worker is killed."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.names import PROPERTY_DELIVERY_HISTORY, PROPERTY_WORKER_DEATH
from worker.processes.history import NO_HISTORY, DeliveryHistory, LockState
from worker.processes.lock_journal import (
    LockJournal,
    WorkerDeath,
    read_slots,
)

ROOT = Path(__file__).resolve().parents[3]
HOST = "sb.example"

# Note two tokens, remove one of them, and wait.
CHILD = """
import sys
from pathlib import Path
from worker.processes.lock_journal import LockJournal
journal = LockJournal(Path(sys.argv[1]), "sb.example", "noop")
journal.note_arrival(b"1" * 16)
journal.note_arrival(b"2" * 16)
journal.remove_token(b"1" * 16)
print("up", flush=True)
sys.stdin.read()
"""


class Killed(BaseException):
    """Raised in place of a write to the journal, to simulate a kill of the process."""


class MortalMemory(mmap.mmap):
    """A memory map that raises `Killed` at each write after the next `writes_left` writes."""

    writes_left: int | None = None

    def __setitem__(self, place: Any, value: Any) -> None:
        if self.writes_left == 0:
            raise Killed
        if self.writes_left is not None:
            self.writes_left -= 1
        super().__setitem__(place, value)


class MortalJournal(LockJournal):
    """A lock journal that can simulate a kill of its process before any write to the journal."""

    def _map(self, slot_count: int) -> mmap.mmap:
        with super()._map(slot_count) as memory:
            return MortalMemory(self._file, len(memory))

    def kill_after(self, writes: int) -> None:
        assert isinstance(self._slots, MortalMemory)
        self._slots.writes_left = writes


def token(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Workers(RuleBasedStateMachine):
    """Simulated workers that run one after another with one journal.

    Each worker may be killed before one of its writes to the journal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._own = tempfile.TemporaryDirectory()
        self.folder = Path(self._own.name)
        self.numbers = count(1)
        self.locked: set[bytes] = set()
        # The killed operation's token, which may or may not be in the journal.
        self.unsure: set[bytes] = set()
        self.journal: MortalJournal | None = None

    def teardown(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self._own.cleanup()

    @precondition(lambda self: self.journal is None)
    @rule(writes=st.none() | st.integers(0, 8))
    def start(self, writes: int | None) -> None:
        self.journal = MortalJournal(self.folder, HOST, "noop")
        if writes is not None:
            self.journal.kill_after(writes)
        try:
            self.journal.take_over_journals()
        except Killed:
            self._die()
            return
        if writes is not None:
            # The worker is killed later, while it is idle.
            self._die()

    @precondition(lambda self: self.journal is not None)
    @rule(writes=st.none() | st.integers(0, 2), messages=st.integers(1, 600))
    def receive(self, writes: int | None, messages: int) -> None:
        assert self.journal is not None
        for _ in range(messages):
            new = token(next(self.numbers))
            self.journal.note_arrival(new)
            self.locked.add(new)
        if writes is None:
            return
        new = token(next(self.numbers))
        self.journal.kill_after(writes)
        try:
            self.journal.note_arrival(new)
        except Killed:
            self.unsure.add(new)
        else:
            self.locked.add(new)
        self._die()

    @precondition(lambda self: self.journal is not None and self.locked)
    @rule(data=st.data(), is_killed=st.booleans())
    def settle(self, data: st.DataObject, is_killed: bool) -> None:
        assert self.journal is not None
        settled = data.draw(st.sampled_from(sorted(self.locked)))
        self.locked.discard(settled)
        if not is_killed:
            self.journal.remove_token(settled)
            return
        self.journal.kill_after(0)
        try:
            self.journal.remove_token(settled)
        except Killed:
            self.unsure.add(settled)
        self._die()

    @invariant()
    def the_journal_has_the_locked_tokens(self) -> None:
        if self.journal is not None:
            found = self.journal.tokens
            assert len(found) == len(set(found))
            assert self.locked <= set(found) <= self.locked | self.unsure
            slots = read_slots(self.journal.path.read_bytes())
            assert sorted(slot.token for slot in slots) == sorted(found)

    def _die(self) -> None:
        assert self.journal is not None
        self.journal.close()
        self.journal = None


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_unsettled_tokens_survive_a_kill(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        successor = LockJournal(tmp_path, HOST, "noop")
        assert list(successor.take_over_journals()) == [], "the child still runs"
        child.kill()
        child.wait(10)
        assert list(successor.take_over_journals()) == [b"2" * 16]
        assert successor.tokens == [b"2" * 16]
        assert list(tmp_path.iterdir()) == [successor.path]
    successor.close()


def test_only_journals_of_the_same_queue_are_taken_over(tmp_path: Path) -> None:
    dead = LockJournal(tmp_path, HOST, "noop")
    dead.note_arrival(token(1))
    dead.close()
    others = [
        LockJournal(tmp_path, HOST, "noop-low"),
        LockJournal(tmp_path, "other.example", "noop"),
    ]
    assert [list(other.take_over_journals()) for other in others] == [[], []]
    successor = LockJournal(tmp_path, HOST, "noop")
    assert list(successor.take_over_journals()) == [token(1)]
    for journal in (*others, successor):
        journal.close()


def test_long_queue_name_with_slashes_is_found(tmp_path: Path) -> None:
    journal = LockJournal(tmp_path, HOST, "a/b" * 80)
    journal.note_arrival(token(1))
    journal.close()
    successor = LockJournal(tmp_path, HOST, "a/b" * 80)
    assert list(successor.take_over_journals()) == [token(1)]
    successor.close()


def leave(folder: Path, state: LockState, history: DeliveryHistory = NO_HISTORY) -> None:
    """Write the journal of a dead worker, which held one message in this state."""
    dead = LockJournal(folder, HOST, "noop")
    dead.note_arrival(token(1))
    if state is not LockState.ARRIVED:
        dead.note_read(token(1), history)
        dead.set_state(token(1), state)
    dead.close()


CRASH = WorkerDeath(os.getpid(), "w-1", "was killed by SIGSEGV", is_crash=True)
KILL = WorkerDeath(os.getpid(), "w-1", "was killed by SIGKILL")
FAILED = DeliveryHistory(failed_count=1)


@pytest.mark.parametrize(
    ("state", "death", "history"),
    [
        (LockState.ARRIVED, CRASH, None),
        (LockState.WAITING, CRASH, DeliveryHistory(failed_count=1, waiting_count=1)),
        (LockState.RUNNING, CRASH, DeliveryHistory(failed_count=1, running_count=1)),
        (LockState.RUNNING_ALONE, CRASH, DeliveryHistory(failed_count=2, running_count=1)),
        (LockState.RUNNING_ALONE, KILL, DeliveryHistory(1, killed_count=1, running_count=1)),
        (LockState.RUNNING_ALONE, None, DeliveryHistory(1, killed_count=1, running_count=1)),
        (LockState.RAN, CRASH, None),
        (LockState.OVERRUN, KILL, DeliveryHistory(failed_count=1, overrun_count=1)),
    ],
)
def test_death_counts_against_a_job_that_ran_alone(
    tmp_path: Path, state: LockState, death: WorkerDeath | None, history: DeliveryHistory | None
) -> None:
    leave(tmp_path, state, FAILED)
    # The first successor is killed before it abandons the message. Its own death does not count.
    for dying in (death, CRASH):
        successor = LockJournal(tmp_path, HOST, "noop")
        assert successor.take_over_journals(dying)[token(1)].history == history
        successor.close()


@pytest.mark.parametrize(
    ("state", "is_told"), [(LockState.WAITING, False), (LockState.RUNNING, True)]
)
def test_only_a_running_job_learns_how_its_worker_died(
    tmp_path: Path, state: LockState, is_told: bool
) -> None:
    leave(tmp_path, state)
    successor = LockJournal(tmp_path, HOST, "noop")
    (left,) = successor.take_over_journals(CRASH).values()
    assert (left.properties.get(PROPERTY_WORKER_DEATH) == str(CRASH)) is is_told
    assert PROPERTY_DELIVERY_HISTORY in left.properties
    successor.close()
