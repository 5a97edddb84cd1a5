"""Test conditional headers against the rules of Azure's documentation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.blobs.errors import StorageError
from emulator.blobs.headers import Conditions
from emulator.blobs.lease import BLOB_LEASE_ERRORS, NO_LEASE, Lease, LeaseErrors
from emulator.blobs.times import format_http_date

TAGS = ('"one"', '"two"')
SECOND = 1_000_000


@dataclass(frozen=True)
class Thing:
    etag: str
    modified_us: int
    lease: Lease = NO_LEASE
    lease_errors: LeaseErrors = BLOB_LEASE_ERRORS


THINGS = st.builds(Thing, st.sampled_from(TAGS), st.integers(0, 4).map(lambda s: s * SECOND + 7))
TAG_LISTS = st.lists(st.sampled_from(TAGS), max_size=2).map(tuple)
TIMES = st.none() | st.integers(0, 4)
CONDITIONS = st.builds(Conditions, TAG_LISTS, TAG_LISTS, TIMES, TIMES)


EARLY = format_http_date(0)
LATER = Thing(TAGS[0], 9**9)


def outcome(check: object, *arguments: object, **options: object) -> int:
    try:
        check(*arguments, **options)  # type: ignore[operator] # a bound method
    except StorageError as refused:
        return refused.status
    return 200


@given(CONDITIONS, THINGS)
def test_conditional_read_has_azures_status(conditions: Conditions, thing: Thing) -> None:
    seconds = thing.modified_us // SECOND
    match = not conditions.if_match or thing.etag in conditions.if_match
    unmodified = conditions.if_unmodified_since is None or seconds <= conditions.if_unmodified_since
    none_match = thing.etag not in conditions.if_none_match
    modified = conditions.if_modified_since is not None and seconds > conditions.if_modified_since
    asks = bool(conditions.if_none_match) or conditions.if_modified_since is not None
    fresh = (bool(conditions.if_none_match) and none_match) or modified
    expected = 412 if not (match and unmodified) else 304 if asks and not fresh else 200
    assert outcome(conditions.check_read, thing) == expected


@given(CONDITIONS, THINGS | st.none(), st.booleans())
def test_write_succeeds_only_if_etag_conditions_are_met(
    conditions: Conditions, thing: Thing | None, creates: bool
) -> None:
    status = outcome(conditions.check_write, thing, creates=creates)
    assert status in {200, 400, 412}
    if status == 200 and conditions.if_match:
        assert thing is not None
        assert thing.etag in conditions.if_match
    if status == 200 and conditions.if_none_match and thing is not None:
        assert thing.etag not in conditions.if_none_match


@pytest.mark.parametrize(
    ("headers", "thing", "creates", "expected"),
    [
        ({"if-none-match": "*"}, None, True, 200),
        ({"if-none-match": "*"}, Thing(TAGS[0], 0), True, 409),
        ({"if-none-match": "*"}, Thing(TAGS[0], 0), False, 412),
        ({"if-match": "*"}, Thing(TAGS[0], 0), True, 200),
        ({"if-match": "*"}, None, True, 412),
        ({"if-match": "one"}, Thing(TAGS[0], 0), True, 200),
        ({"if-match": '"one", "two"'}, Thing(TAGS[0], 0), True, 400),
        ({"if-match": '"one"', "if-none-match": '"two"'}, Thing(TAGS[0], 0), True, 400),
        (
            {"if-match": '"one"', "if-unmodified-since": EARLY},
            LATER,
            True,
            200,
        ),
    ],
)
def test_conditional_write_has_azures_status(
    headers: dict[str, str], thing: Thing | None, creates: bool, expected: int
) -> None:
    conditions = Conditions.parse(headers, 0)
    assert outcome(conditions.check_write, thing, creates=creates) == expected


@given(st.text(st.characters(max_codepoint=255)))
def test_any_conditional_header_is_parsed_or_gets_400(text: str) -> None:
    names = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
    for name in (*names, "x-ms-lease-id"):
        assert outcome(Conditions.parse, {name: text}, 0) in {200, 400}
