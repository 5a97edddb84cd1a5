"""Test how Idempotency-Key headers are parsed, and how idempotency claims are stored.

A claim is the blob that assigns a job to an idempotency key. It contains the fingerprint of the
request. If a later request has the same key, the gateway compares the fingerprints of the requests.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.requests import parse_key
from gateway.submission.idempotency import IdempotencyClaim, claim_blob, decode_claim, fingerprint

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)
BARE_KEYS = KEYS.filter(lambda key: not set(key) & set(' ",'))


def quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(KEYS)
def test_quoted_key_is_parsed_without_the_quotes(key: str) -> None:
    assert parse_key([quoted(key)]) == key


@given(BARE_KEYS)
def test_unquoted_key_equals_the_quoted_key(key: str) -> None:
    assert parse_key([f" {key}\t"]) == parse_key([quoted(key)]) == key


@given(st.lists(st.text(max_size=300), max_size=3))
def test_any_header_gives_a_key_or_value_error(values: list[str]) -> None:
    try:
        key = parse_key(values)
    except ValueError:
        return
    assert (key is None) == (not values)
    assert key is None or (1 <= len(key) <= 255 and key.isascii() and key.isprintable())


@pytest.mark.parametrize(
    "text",
    [
        *("", '""', '"', '"a', 'a"', 'a"b', '"a"b', '"a" "b"', "a b", "a,b", '"\\n"', '"ä"', "ä"),
        *("a" * 256, f'"{"a" * 256}"', '"a"; x=1', "\x7f", '"\t"'),
    ],
)
def test_malformed_key_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_key([text])


def test_two_keys_raise_value_error() -> None:
    with pytest.raises(ValueError, match="more than once"):
        parse_key(["a", "a"])


@given(st.text(max_size=20), KEYS, st.text(max_size=20), KEYS)
def test_tenants_and_keys_have_blobs_of_their_own(a: str, key: str, b: str, other: str) -> None:
    assert (claim_blob(a, key) == claim_blob(b, other)) == ((a, key) == (b, other))


@given(st.text(min_size=1).filter(str.isascii), st.datetimes(timezones=st.just(UTC)))
def test_encoded_claim_is_decoded_unchanged(job_id: str, created_at: datetime) -> None:
    claim = IdempotencyClaim(job_id, "f" * 64, created_at)
    assert decode_claim(claim.encode()) == claim


@given(st.binary(max_size=100))
def test_malformed_bytes_are_no_claim(data: bytes) -> None:
    assert decode_claim(data) is None


def test_different_requests_have_different_fingerprints() -> None:
    base = ("POST", "noop", b"x", {"deadline_seconds": 60, "parameters": {"a": 1, "b": 2}})
    same = ("POST", "noop", b"x", {"parameters": {"b": 2, "a": 1}, "deadline_seconds": 60})
    others = [
        ("PUT", *base[1:]),
        ("POST", "classifier", *base[2:]),
        ("POST", "noop", b"y", base[3]),
        (*base[:3], {**base[3], "deadline_seconds": 61}),
        (*base[:3], {**base[3], "media_type": "text/plain"}),
    ]
    assert fingerprint(*base) == fingerprint(*same)
    assert len({fingerprint(*request) for request in [base, *others]}) == 1 + len(others)
