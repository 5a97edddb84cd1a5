from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import PayloadCorrupt
from contract.messages import fits_inline, reference, verify


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_verifying_a_payload_succeeds_only_for_the_bytes_that_the_payload_reference_describes(
    announced: bytes, found: bytes
) -> None:
    ref = reference("text/plain", "inputs/1", announced)
    if found == announced:
        assert verify(ref, found) is found
    else:
        with pytest.raises(PayloadCorrupt):
            verify(ref, found)


def test_a_wrong_size_and_a_wrong_digest_of_a_payload_cause_different_errors() -> None:
    ref = replace(reference("text/plain", "inputs/1", b"abc"), sha256="0" * 64)
    with pytest.raises(PayloadCorrupt, match="digest"):
        verify(ref, b"abc")
    with pytest.raises(PayloadCorrupt, match="2 bytes, but its reference says 3"):
        verify(ref, b"ab")


def test_a_payload_fits_into_a_message_up_to_and_including_the_size_limit() -> None:
    assert fits_inline(10, limit_bytes=10)
    assert not fits_inline(11, limit_bytes=10)
