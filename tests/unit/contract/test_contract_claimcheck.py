from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import PayloadCorrupt
from contract.messages import fits_inline, reference, verify


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_only_the_described_bytes_are_accepted(announced: bytes, found: bytes) -> None:
    ref = reference("text/plain", "inputs/1", announced)
    if found == announced:
        assert verify(ref, found) is found
    else:
        with pytest.raises(PayloadCorrupt):
            verify(ref, found)


def test_wrong_size_and_wrong_digest_differ() -> None:
    ref = replace(reference("text/plain", "inputs/1", b"abc"), sha256="0" * 64)
    with pytest.raises(PayloadCorrupt, match="digest"):
        verify(ref, b"abc")
    with pytest.raises(PayloadCorrupt, match="2 bytes, but its reference says 3"):
        verify(ref, b"ab")


def test_payload_of_the_size_limit_fits_inline() -> None:
    assert fits_inline(10, limit_bytes=10)
    assert not fits_inline(11, limit_bytes=10)
