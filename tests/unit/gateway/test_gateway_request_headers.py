"""Test how the headers Prefer and Accept are parsed, and the responses that depend on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.requests import Preference, choose_media_type, parse_prefer
from gateway.settings import MAX_WAIT_SECONDS
from tests.unit.gateway.conftest import RunningGateway


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Preference()),
        (["wait=10"], Preference(10)),
        (["WAIT = 10"], Preference(10)),
        (['wait="10"'], Preference(10)),
        (["wait=10; x=1"], Preference(10)),
        (["wait=0"], Preference(0)),
        (["wait=201"], Preference(200)),
        ([f"wait={'9' * 5000}"], Preference(200)),
        (["wait=0000000060"], Preference(60)),
        (["wait=000"], Preference(0)),
        (["wait=10, wait=20"], Preference(10)),
        (['foo="a, respond-async, wait=1", wait=2'], Preference(2)),
        (['foo="a\\", wait=1", wait=2'], Preference(2)),
        (['foo="a, wait=1'], Preference()),
        (["wait=ten, wait=20"], Preference(20)),
        (["wait=-1"], Preference()),
        (["wait=1.5"], Preference()),
        (["wait=\u0661"], Preference()),
        (["wait"], Preference()),
        (["respond-async"], Preference(None, True)),
        (["respond-async=no"], Preference()),
        (["respond-async, wait=5"], Preference(5, True)),
        (["respond-async", "wait=5"], Preference(5, True)),
        (["handling=lenient", "return=minimal"], Preference()),
    ],
)
def test_unknown_and_malformed_preferences_are_ignored(
    values: list[str], expected: Preference
) -> None:
    assert parse_prefer(values) == expected


@given(st.lists(st.text()))
def test_wait_never_exceeds_the_maximum(values: list[str]) -> None:
    found = parse_prefer(values)
    assert found.wait_seconds is None or 0 <= found.wait_seconds <= MAX_WAIT_SECONDS


def test_header_determines_the_wait() -> None:
    assert Preference().wait_or(30) == 30
    assert Preference(5).wait_or(30) == 5
    assert Preference(None, True).wait_or(30) == 0
    assert Preference(5, True).wait_or(30) == 5


@pytest.mark.parametrize(
    ("preference", "answered_async", "expected"),
    [
        (Preference(), True, None),
        (Preference(5), True, "wait=5"),
        (Preference(5), False, "wait=5"),
        (Preference(None, True), True, "respond-async"),
        (Preference(None, True), False, None),
        (Preference(5, True), True, "respond-async, wait=5"),
    ],
)
def test_applied_header_lists_only_applied_preferences(
    preference: Preference, answered_async: bool, expected: str | None
) -> None:
    assert preference.applied(answered_async=answered_async) == expected


JSON, HTML = "application/json", "text/html"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", JSON),
        ("*/*", JSON),
        (BROWSER, HTML),
        ("text/html", HTML),
        ("TEXT/*", HTML),
        ("text/html;q=0.5, application/json;q=0.4", HTML),
        ("text/html;q=0, */*", JSON),
        ("text/html;level=1;q=0.2, */*;q=0.1", HTML),
        ("text/html;q=0.3, */*;q=0.5", JSON),
        ("image/png", JSON),
        ("nonsense", JSON),
        ("text/html;q=nonsense", HTML),
    ],
)
def test_offer_with_the_highest_weight_is_chosen(header: str, wanted: str) -> None:
    assert choose_media_type(header, (JSON, HTML)) == wanted


@given(st.text())
def test_any_header_selects_an_offer(header: str) -> None:
    assert choose_media_type(header, (JSON, HTML)) in {JSON, HTML}


async def test_root_is_html_for_browsers_and_json_for_programs(gateway: RunningGateway) -> None:
    for header, media_type in ((BROWSER, HTML), ("*/*", JSON), ("image/png", JSON)):
        answer = await gateway.http.get("/", headers={"accept": header})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.headers["vary"] == "Accept"
