"""Test that the Accept header of a request determines the media type of the response."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.requests import choose_media_type
from tests.unit.gateway.conftest import RunningGateway

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
