"""Test that a memory profile never estimates too little memory for an unmeasured batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.memory.profile import MemoryProfile, MemoryProfiles

PEAKS = st.dictionaries(st.floats(0.5, 1e6), st.integers(0, 10**12), max_size=6)


def profile_of(resident_bytes: int, peaks: dict[float, int]) -> MemoryProfile:
    profile = MemoryProfile(resident_bytes)
    for cost, size_bytes in peaks.items():
        profile = profile.with_peak(cost, size_bytes)
    return profile


def test_unmeasured_batch_takes_the_next_larger_figure() -> None:
    profile = profile_of(100, {1: 10, 4: 30})
    assert [profile.peak_bytes(cost) for cost in (1, 2, 4)] == [10, 30, 30]
    assert profile.peak_bytes(8) == 61
    assert profile.needed_bytes(4) == 130
    assert [profile.is_measured(cost) for cost in (1, 4, 4.1)] == [True, True, False]
    assert MemoryProfile(5).peak_bytes(1) is None


def test_largest_batch_is_computed_from_measurements() -> None:
    profile = profile_of(100, {1: 10, 4: 30})
    assert [profile.largest_cost(size) for size in (99, 105, 110, 129, 130)] == [0, 0, 1, 1, 4]
    assert profile.largest_cost(160) == 8


@given(resident_bytes=st.integers(0, 10**12), peaks=PEAKS, room=st.integers(0, 10**13))
def test_largest_batch_fits_into_memory(
    resident_bytes: int, peaks: dict[float, int], room: int
) -> None:
    profile = profile_of(resident_bytes, peaks)
    cost = profile.largest_cost(room)
    if 0 < cost < float("inf"):
        # Rounding may add one byte.
        assert profile.needed_bytes(cost) <= room + 1 + room * 1e-12


@given(fixed=st.integers(0, 10**9), each=st.integers(1, 10**6), at=st.integers(1, 64))
def test_estimate_suffices_if_memory_grows_linearly(fixed: int, each: int, at: int) -> None:
    profile = MemoryProfile(0).with_peak(at, fixed + each * at)
    for cost in (at, at + 1, 2 * at, 10 * at):
        found = profile.peak_bytes(cost)
        assert found is not None
        assert found >= fixed + each * cost


@given(resident_bytes=st.integers(0, 10**12), peaks=PEAKS, seconds=st.floats(0, 1e4))
def test_stored_profile_is_read_unchanged(
    tmp_path_factory: pytest.TempPathFactory,
    resident_bytes: int,
    peaks: dict[float, int],
    seconds: float,
) -> None:
    measured = profile_of(resident_bytes, peaks)
    profile = MemoryProfile(measured.resident_bytes, measured.peaks, seconds)
    folder = tmp_path_factory.mktemp("profiles")
    MemoryProfiles(folder).put("a", profile)
    assert MemoryProfiles(folder).get("a") == profile
    assert MemoryProfiles(folder).get("b") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"resident_bytes": 1}',
        '{"resident_bytes": -1, "peaks": [], "load_seconds": 0}',
        '{"resident_bytes": 1, "peaks": [[2, 5], [1, 3]], "load_seconds": 0}',
        '{"resident_bytes": 1, "peaks": [[1, 5], [2, 3]], "load_seconds": 0}',
        '{"resident_bytes": 1, "peaks": [[0, 5]], "load_seconds": 0}',
        '{"resident_bytes": 1, "peaks": [[NaN, 5]], "load_seconds": 0}',
        '{"resident_bytes": 1e999, "peaks": [], "load_seconds": 0}',
        '{"resident_bytes": 1, "peaks": 7, "load_seconds": 0}',
    ],
)
def test_unreadable_profile_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert MemoryProfiles(tmp_path).get("a") is None
