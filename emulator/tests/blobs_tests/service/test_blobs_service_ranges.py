"""Test range requests: compare the returned bytes with slices of the blob's content."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.blobs.errors import StorageError
from emulator.blobs.headers import read_requested_range

NUMBERS = st.integers(0, 50)


@given(NUMBERS, NUMBERS, st.booleans(), NUMBERS)
def test_range_selects_bytes_up_to_the_end(
    start: int, more: int, is_open: bool, total: int
) -> None:
    content = bytes(range(total))
    value = f"bytes={start}-" if is_open else f"bytes={start}-{start + more}"
    expected = content[start:] if is_open else content[start : start + more + 1]
    if start >= total:
        with pytest.raises(StorageError) as refused:
            read_requested_range({"x-ms-range": value}, total)
        assert (refused.value.status, refused.value.code) == (416, "InvalidRange")
        return
    part = read_requested_range({"range": value}, total)
    assert part is not None
    assert content[part.start : part.stop] == expected
    assert part.content_range(total) == f"bytes {start}-{start + len(expected) - 1}/{total}"


@given(st.text(st.characters(max_codepoint=255)))
def test_any_range_is_parsed_or_raises_storage_error(text: str) -> None:
    for headers in ({"range": text}, {"x-ms-range": text}, {"range": f"bytes={text}"}):
        with contextlib.suppress(StorageError):
            part = read_requested_range(headers, 10)
            assert part is None or 0 <= part.start < part.stop <= 10


@pytest.mark.parametrize("value", ["bytes=-5", "bytes=5-1", "bytes=0-1,3-4", "lines=1-2", "٣-٤"])
def test_only_an_invalid_x_ms_range_is_refused(
    value: str,
) -> None:
    assert read_requested_range({"range": value}, 10) is None
    with pytest.raises(StorageError):
        read_requested_range({"x-ms-range": value}, 10)


def test_x_ms_range_takes_precedence() -> None:
    part = read_requested_range({"range": "bytes=0-1", "x-ms-range": "bytes=2-3"}, 10)
    assert part is not None
    assert part.start == 2
