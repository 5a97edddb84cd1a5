"""Test how the benchmark `./dev bench silence` judges a kill."""

import math

from lab.benchmarks.peers.client import Exchange
from lab.benchmarks.silence import Kill, summarize


def exchange(begin: float, end: float, status: int = 200) -> Exchange:
    return Exchange(0, begin, end, status, b"")


def test_silence_is_the_longest_time_without_success_after_the_kill() -> None:
    found = [exchange(0, 1), exchange(0, 9), exchange(9, 10.8), exchange(10.8, 11.0)]
    kill = Kill.of(found, killed_at=10.0, stopped_at=12.0)
    assert math.isclose(kill.seconds, 0.8)
    assert (kill.delayed, kill.lost) == (1, 0)


def test_delayed_job_after_the_last_new_job_is_no_silence() -> None:
    found = [exchange(9, 10.5), exchange(10.4, 10.9), exchange(9.9, 20.0)]
    kill = Kill.of(found, killed_at=10.0, stopped_at=12.0)
    assert (kill.seconds, kill.delayed) == (0.5, 1)


def test_job_in_flight_at_the_kill_is_no_recovery() -> None:
    found = [exchange(9, 10.01), exchange(10.01, 14.0), exchange(9, 14.2)]
    kill = Kill.of(found, killed_at=10.0, stopped_at=12.0)
    assert math.isclose(kill.seconds, 3.99)


def test_kill_without_recovery_misses_the_target() -> None:
    kill = Kill.of([exchange(9, 13.0, status=500)], killed_at=10.0, stopped_at=12.0)
    assert math.isinf(kill.seconds)
    assert kill.lost == 1
    assert not summarize("noop", [Kill(0.5, 0, 0), kill]).is_met
