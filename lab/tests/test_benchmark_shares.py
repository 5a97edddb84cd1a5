"""Test the arithmetic of the benchmark of shares."""

from collections import Counter
from pathlib import Path

import pytest

from lab.benchmarks import shares
from lab.benchmarks.shares import Ran


def turns(pattern: str, count: int) -> list[Ran]:
    """Return jobs of one second each, whose tenants follow the pattern."""
    return [Ran(pattern[n % len(pattern)], float(n), n + 1.0) for n in range(count)]


def test_each_minute_is_measured() -> None:
    windows = shares.measure_shares(turns("abb", 120), until=96.0)
    assert len(windows) == 32
    for window in windows:
        assert window["a"] == pytest.approx(1 / 3)


def test_part_of_a_job_in_the_minute_counts() -> None:
    ran = [Ran("a", 0.0, 20.0), Ran("b", 20.0, 65.0)]
    (window,) = shares.measure_shares(ran, until=65.0)
    assert window == {"a": 15 / 60, "b": 45 / 60}


def test_unfair_minute_is_not_averaged_away() -> None:
    ran = [*turns("a", 70), *(Ran("b", n, n + 1) for n in range(70, 140))]
    assert shares.measure_shares(ran, until=140.0)[0] == {"a": 1.0, "b": 0.0}


def test_tenants_are_mixed_evenly() -> None:
    names = [name for name, _ in shares.interleave({"one": 2, "two": 4})]
    assert names[:3].count("two") == 2
    assert Counter(names) == {"one": 2, "two": 4}


@pytest.mark.parametrize(("shared", "is_met"), [([99.0, 100.0], True), ([98.0, 98.5], False)])
def test_slower_rounds_miss_the_target(shared: list[float], is_met: bool) -> None:
    assert shares.compare("rate", shared, [100.0, 100.0], 0.99).is_met == is_met


def test_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    path.write_text("a 1.0 2.0\nb 2.0 2")
    assert Ran.read(path) == [Ran("a", 1.0, 2.0)]
