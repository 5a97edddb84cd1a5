"""LockRenewer on a clock that only the test moves."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BrokerAway, LockLost
from worker.servicebus.link import Delivery
from worker.servicebus.locks import LockRenewer, MessageLock

LOCK_SECONDS = 9.0


@dataclass
class World:
    """A broker's locks and the time, without a broker: `mood` is what it answers to a renewal."""

    now: float = 1000.0
    mood: str = "renews"
    renewals: list[tuple[float, str]] = field(default_factory=list)
    locked_until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.leases = LockRenewer(clock=lambda: self.now)

    def hold(
        self, name: str, ends_in: float = 1e6, lock_seconds: float = LOCK_SECONDS
    ) -> MessageLock:
        self.locked_until[name] = self.now + lock_seconds
        return self.leases.hold(delivery(name), self.renew, lock_seconds, self.now + ends_in)

    def renew(self, delivery: Delivery, timeout_seconds: float) -> float:
        self.renewals.append((self.now, delivery.message_id))
        if self.mood == "silent":
            self.now += timeout_seconds
            # It is closed, and the next try is over another.
            self.mood = "renews"
            raise BrokerAway("no answer in time")
        if self.mood == "defect":
            raise KeyError("in the SDK")
        if self.mood == "away":
            raise BrokerAway("no route")
        if self.mood == "lost" or self.now >= self.locked_until[delivery.message_id]:
            raise LockLost("gone")
        self.locked_until[delivery.message_id] = self.now + LOCK_SECONDS
        return LOCK_SECONDS

    def pass_time(self, seconds: float) -> None:
        """As the thread lives through it: it sleeps as long as each turn tells it to."""
        ends_at = self.now + seconds
        sleep_seconds = self.leases.turn()
        while self.now + sleep_seconds <= ends_at:
            self.now += max(sleep_seconds, 1e-6)
            sleep_seconds = self.leases.turn()
        self.now = ends_at
        self.leases.turn()


def delivery(name: str) -> Delivery:
    return Delivery(b"", 0, None, None, {}, name, cast(Any, None))


def is_held(lease: MessageLock) -> bool:
    return not lease.is_lost


def test_renews_at_a_third_of_the_lock() -> None:
    world = World()
    world.hold("a")
    world.pass_time(2.9)
    assert world.renewals == []
    world.pass_time(6.2)
    assert [round(at - 1000, 3) for at, _ in world.renewals] == [3.0, 6.0, 9.0]


def test_ten_minutes_on_short_locks() -> None:
    world = World()
    lease = world.hold("a")
    world.pass_time(600.0)
    assert not lease.is_lost
    assert len(world.renewals) == 200


def test_release_ends_the_renewals_and_tells_whether_the_lock_is_held() -> None:
    world = World()
    kept, lost = world.hold("kept"), world.hold("lost")
    assert world.leases.release(kept)
    world.mood = "lost"
    world.pass_time(3.0)
    assert [name for _, name in world.renewals] == ["lost"]
    assert not world.leases.release(lost)


def test_stops_at_the_deadline_and_lets_the_lock_run_out() -> None:
    world = World()
    lease = world.hold("a", ends_in=7.0)
    world.pass_time(7.0)
    assert [round(at - 1000) for at, _ in world.renewals] == [3, 6]
    assert is_held(lease)
    world.pass_time(9.0)
    assert not is_held(lease)
    assert len(world.renewals) == 2


def test_a_broker_that_is_away_for_a_moment_costs_nothing() -> None:
    world = World(mood="away")
    lease = world.hold("a")
    world.pass_time(8.0)
    assert is_held(lease)
    world.mood = "renews"
    world.pass_time(20.0)
    assert is_held(lease)


def test_a_connection_that_went_silent_costs_no_lock_if_the_next_one_answers() -> None:
    world = World(mood="silent")
    leases = [world.hold(name) for name in ("a", "b")]
    world.pass_time(20.0)
    assert all(is_held(lease) for lease in leases)


def test_a_silent_connection_holds_nobody_up_for_long() -> None:
    world = World(mood="silent")
    world.hold("a", lock_seconds=300.0)
    world.now += 100.0
    begun_at = world.now
    world.leases.turn()
    assert world.now - begun_at <= 30.0


def test_a_defect_costs_no_other_lock(caplog: pytest.LogCaptureFixture) -> None:
    world = World(mood="defect")
    lease = world.hold("a")
    world.pass_time(4.0)
    world.mood = "renews"
    world.pass_time(20.0)
    assert is_held(lease)
    assert "trying again" in caplog.text


def test_a_broker_that_stays_away_loses_the_lock_when_it_expires() -> None:
    world = World(mood="away")
    lease = world.hold("a")
    world.pass_time(8.9)
    assert is_held(lease)
    world.pass_time(0.2)
    assert not is_held(lease)


def test_a_waiting_reply_hears_of_the_loss() -> None:
    world = World(mood="lost")
    lease = world.hold("a")
    world.pass_time(3.0)
    assert lease.wait(3600.0) is False


def test_a_lock_found_expired_is_not_renewed() -> None:
    world = World()
    lease = world.hold("a")
    world.now += 100.0  # the process was suspended
    assert lease.is_lost, "whoever looks first"
    world.leases.turn()
    assert lease.is_lost
    assert world.renewals == []


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
def test_is_never_wrong_about_who_holds_the_lock(steps: list[tuple[str, Any]]) -> None:
    world = World()
    leases: dict[str, MessageLock] = {}
    released: dict[str, float] = {}
    ends: dict[str, float] = {}
    for what, value in steps:
        if what == "hold":
            name = f"job-{len(leases)}"
            ends[name] = world.now + value
            leases[name] = world.hold(name, ends_in=value)
        elif what == "release" and leases:
            name = list(leases)[value % len(leases)]
            world.leases.release(leases[name])
            released.setdefault(name, world.now)
        elif what == "pass":
            world.pass_time(value)
        elif value is None:
            world.mood = what

        for name, lease in leases.items():
            if name not in released and not lease.is_lost:
                # What we believe to hold, the broker has locked for us.
                assert world.now < world.locked_until[name] + 1e-3
    for at, name in world.renewals:
        assert at <= ends[name]
        assert at <= released.get(name, at)
