"""Test the lock renewer with a clock that only the test advances."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.received import locked_message
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import LockRenewer, MessageLock
from worker.errors import BrokerUnavailable, LockLost

LOCK_SECONDS = 9.0


@dataclass
class ScriptedBroker:
    """A broker in memory whose clock is the attribute `now`.

    `mood` determines how a call of `renew` ends. With `renews`, it renews the lock, but raises
    LockLost if the lock has expired. With `lost`, it raises LockLost in any case, and with `defect`
    a KeyError. With `away`, it raises BrokerUnavailable. With `silent`, one call does so after its
    timeout, and changes the mood to `renews`.
    """

    now: float = 1000.0
    mood: str = "renews"
    renewals: list[tuple[float, str]] = field(default_factory=list)
    locked_until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.locks = LockRenewer(clock=lambda: self.now)

    def hold(
        self, name: str, ends_in: float = 1e6, lock_seconds: float = LOCK_SECONDS
    ) -> MessageLock:
        self.locked_until[name] = self.now + lock_seconds
        return self.locks.start_renewal(
            locked_message(name), self.renew, lock_seconds, self.now + ends_in
        )

    def renew(self, delivery: LockedMessage, timeout_seconds: float) -> float:
        self.renewals.append((self.now, delivery.message_id))
        if self.mood == "silent":
            self.now += timeout_seconds
            # The connection is closed, and the next try uses another connection.
            self.mood = "renews"
            raise BrokerUnavailable("no answer in time")
        if self.mood == "defect":
            raise KeyError("in the SDK")
        if self.mood == "away":
            raise BrokerUnavailable("no route")
        if self.mood == "lost" or self.now >= self.locked_until[delivery.message_id]:
            raise LockLost("gone")
        self.locked_until[delivery.message_id] = self.now + LOCK_SECONDS
        return LOCK_SECONDS

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and renew each lock when the renewer's thread would renew it."""
        ends_at = self.now + seconds
        sleep_seconds = self.locks.renew_due()
        while self.now + sleep_seconds <= ends_at:
            self.now += max(sleep_seconds, 1e-6)
            sleep_seconds = self.locks.renew_due()
        self.now = ends_at
        self.locks.renew_due()


def is_held(lock: MessageLock) -> bool:
    return not lock.is_lost


def test_lock_is_renewed_after_a_third_of_its_duration() -> None:
    broker = ScriptedBroker()
    broker.hold("a")
    broker.pass_time(2.9)
    assert broker.renewals == []
    broker.pass_time(6.2)
    assert [round(at - 1000, 3) for at, _ in broker.renewals] == [3.0, 6.0, 9.0]


def test_renewals_keep_a_lock_for_ten_minutes() -> None:
    broker = ScriptedBroker()
    lock = broker.hold("a")
    broker.pass_time(600.0)
    assert not lock.is_lost
    assert len(broker.renewals) == 200


def test_end_of_renewal_says_whether_the_lock_is_held() -> None:
    broker = ScriptedBroker()
    kept, lost = broker.hold("kept"), broker.hold("lost")
    assert broker.locks.end_renewal(kept)
    broker.mood = "lost"
    broker.pass_time(3.0)
    assert [name for _, name in broker.renewals] == ["lost"]
    assert not broker.locks.end_renewal(lost)


def test_lock_is_not_renewed_after_the_deadline() -> None:
    broker = ScriptedBroker()
    lock = broker.hold("a", ends_in=7.0)
    broker.pass_time(7.0)
    assert [round(at - 1000) for at, _ in broker.renewals] == [3, 6]
    assert is_held(lock)
    broker.pass_time(9.0)
    assert not is_held(lock)
    assert len(broker.renewals) == 2


def test_short_outage_loses_no_lock() -> None:
    broker = ScriptedBroker(mood="away")
    lock = broker.hold("a")
    broker.pass_time(8.0)
    assert is_held(lock)
    broker.mood = "renews"
    broker.pass_time(20.0)
    assert is_held(lock)


def test_silent_connection_loses_no_lock() -> None:
    broker = ScriptedBroker(mood="silent")
    locks = [broker.hold(name) for name in ("a", "b")]
    broker.pass_time(20.0)
    assert all(is_held(lock) for lock in locks)


def test_silent_connection_delays_others_briefly() -> None:
    broker = ScriptedBroker(mood="silent")
    broker.hold("a", lock_seconds=300.0)
    broker.now += 100.0
    begun_at = broker.now
    broker.locks.renew_due()
    assert broker.now - begun_at <= 30.0


def test_unexpected_error_loses_no_lock(caplog: pytest.LogCaptureFixture) -> None:
    broker = ScriptedBroker(mood="defect")
    lock = broker.hold("a")
    broker.pass_time(4.0)
    broker.mood = "renews"
    broker.pass_time(20.0)
    assert is_held(lock)
    assert "tries again" in caplog.text


def test_lock_that_expires_during_an_outage_is_lost() -> None:
    broker = ScriptedBroker(mood="away")
    lock = broker.hold("a")
    broker.pass_time(8.9)
    assert is_held(lock)
    broker.pass_time(0.2)
    assert not is_held(lock)


def test_wait_ends_when_the_lock_is_lost() -> None:
    broker = ScriptedBroker(mood="lost")
    lock = broker.hold("a")
    broker.pass_time(3.0)
    assert lock.wait(3600.0) is False


def test_expired_lock_is_not_renewed() -> None:
    broker = ScriptedBroker()
    lock = broker.hold("a")
    broker.now += 100.0  # the process was suspended
    assert lock.is_lost, "the lock counts as lost before the renewing thread runs"
    broker.locks.renew_due()
    assert lock.is_lost
    assert broker.renewals == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hold"), st.floats(0.5, 60)),
            st.tuples(st.just("release"), st.integers(0, 30)),
            st.tuples(st.just("pass"), st.floats(0, 12)),
            st.tuples(st.sampled_from(["renews", "away", "lost"]), st.none()),
        ),
        max_size=30,
    )
)
def test_lock_is_never_held_longer_than_at_the_broker(steps: list[tuple[str, Any]]) -> None:
    broker = ScriptedBroker()
    locks: dict[str, MessageLock] = {}
    released: dict[str, float] = {}
    ends: dict[str, float] = {}
    for what, value in steps:
        if what == "hold":
            name = f"job-{len(locks)}"
            ends[name] = broker.now + value
            locks[name] = broker.hold(name, ends_in=value)
        elif what == "release" and locks:
            name = list(locks)[value % len(locks)]
            broker.locks.end_renewal(locks[name])
            released.setdefault(name, broker.now)
        elif what == "pass":
            broker.pass_time(value)
        elif value is None:
            broker.mood = what

        for name, lock in locks.items():
            if name not in released and not lock.is_lost:
                # The broker still has every lock that counts as held.
                assert broker.now < broker.locked_until[name] + 1e-3
    for at, name in broker.renewals:
        assert at <= ends[name]
        assert at <= released.get(name, at)
