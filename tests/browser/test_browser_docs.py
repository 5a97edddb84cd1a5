"""Test the front page and /docs in a real browser."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.browser import Browser, SentRequest
from tests.browser.checks import check_width, check_with_axe, focused, press, tab_to

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(120)]

SUBMIT = "#operations-jobs-submit_job"
MODELS = "#operations-models-list_models"
KEY = "lsy_an-api-key-that-only-this-test-uses"


def open_route(browser: Browser, route: str) -> None:
    browser.open("/docs")
    browser.find(f"{route} .opblock-summary-control").click()
    browser.find(f"{route} .opblock-body")


def try_route(browser: Browser, route: str) -> None:
    browser.find(f"{route} .try-out__btn").click()
    browser.find(f"{route} .execute").click()


def sent_to(browser: Browser, path: str) -> SentRequest:
    (found,) = (request for request in browser.requests if request.url.endswith(path))
    return found


@pytest.mark.parametrize("path", ["/", "/docs/problems"])
def test_front_and_problems_pages_pass_axe(browser: Browser, path: str) -> None:
    browser.open(path)
    check_with_axe(browser)
    assert browser.messages == []


def test_api_page_passes_axe(browser: Browser) -> None:
    open_route(browser, SUBMIT)
    browser.find(f"{SUBMIT} .try-out__btn").click()
    browser.find(f"{MODELS} .opblock-summary-control").click()
    try_route(browser, MODELS)
    browser.find(f"{MODELS} .live-responses-table")
    browser.find(".models-control").click()
    browser.find(".models .json-schema-2020-12-accordion").click()
    check_with_axe(browser)
    assert browser.messages == []


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/problems"])
def test_320_pixels_need_no_horizontal_scrolling(browser: Browser, path: str) -> None:
    browser.open(path)
    if path == "/docs":
        browser.find(f"{SUBMIT} .opblock-summary-control").click()
        browser.find(f"{SUBMIT} .try-out__btn").click()
    check_width(browser)


def test_docs_link_opens_the_api_page(browser: Browser) -> None:
    browser.open("/")
    paths = [link.get_dom_attribute("href") for link in browser.find_all(".entries a")]
    assert paths == ["/play", "/ops", "/docs"]
    browser.find(".entries a[href='/docs']").click()
    assert browser.find("h1").text == "The API"
    assert browser.find("nav [aria-current]").text == "API"


def test_callers_routes_come_first(browser: Browser) -> None:
    browser.open("/docs")
    browser.find(".opblock-tag")
    tags = [tag.get_dom_attribute("data-tag") for tag in browser.find_all(".opblock-tag")]
    assert tags[0] == "jobs"
    assert tags[-2:] == ["workers", "admin"]


def test_try_it_out_submits_a_job(browser: Browser) -> None:
    open_route(browser, SUBMIT)
    browser.find(f"{SUBMIT} .try-out__btn").click()
    model = browser.find(f"{SUBMIT} tr[data-param-name=model] input")
    model.send_keys(Keys.CONTROL, "a")
    model.send_keys("noop")
    browser.run(
        "const select = arguments[0]; select.value = 'text/plain';"
        "select.dispatchEvent(new Event('change', {bubbles: true}))",
        browser.find(f"{SUBMIT} select.content-type"),
    )
    body = browser.find(f"{SUBMIT} .opblock-section-request-body textarea")
    body.send_keys(Keys.CONTROL, "a")
    body.send_keys("hello")
    browser.find(f"{SUBMIT} .execute").click()
    browser.wait_for_text("#answer", "status 200")
    browser.wait_for_text(f"{SUBMIT} .live-responses-table", '"succeeded"')
    assert '"size_bytes": 5' in browser.find(f"{SUBMIT} .live-responses-table").text
    assert sent_to(browser, "/v1/models/noop/jobs?parameters=%7B%7D&priority=normal").method == (
        "POST"
    )
    assert browser.messages == []


def test_error_response_shows_its_problem_code(browser: Browser) -> None:
    open_route(browser, "#operations-jobs-get_job")
    try_route(browser, "#operations-jobs-get_job")
    browser.wait_for_text(".live-responses-table", '"unknown-job"')
    assert "404" in browser.find("#answer").text


def test_api_key_stays_in_session_storage(browser: Browser) -> None:
    browser.open("/docs")
    browser.find("header summary").click()
    browser.find("#api-key").send_keys(KEY, Keys.ENTER)
    browser.wait_for_text("header summary", "set")
    browser.open("/docs")  # the key survives a change of the page
    browser.find(f"{MODELS} .opblock-summary-control").click()
    try_route(browser, MODELS)
    browser.wait_for_text("#answer", "status 200")
    assert sent_to(browser, "/v1/models").headers["authorization"] == f"Bearer {KEY}"
    command = browser.find(f"{MODELS} .curl").text
    assert '-H "Authorization: Bearer $LOOSELY_API_KEY"' in command
    assert KEY not in browser.find("body").text
    kept = browser.run(
        "return [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]"
    )
    assert (json.loads(kept[0]), kept[1:]) == ({"loosely.api-key": KEY}, ["{}", ""])
    assert [request.url for request in browser.requests if KEY in request.url] == []
    browser.find("header summary").click()
    browser.find("header button[type=reset]").click()
    browser.wait_for_text("header summary", "none")
    assert browser.run("return sessionStorage.length") == 0


def test_workers_route_has_no_try_it_out(browser: Browser) -> None:
    open_route(browser, "#operations-workers-send_reply")
    assert browser.find_all("#operations-workers-send_reply .try-out") == []


def test_request_is_sent_without_a_mouse(browser: Browser) -> None:
    browser.open("/docs")
    browser.find(MODELS)
    press(browser, Keys.TAB)
    assert focused(browser, "textContent") == "Skip to the content"
    press(browser, Keys.ENTER)
    browser.wait(lambda: focused(browser, "id") == "content", "the content has no focus")
    tab_to(browser, f"{MODELS} .opblock-summary-control")
    press(browser, Keys.ENTER)
    browser.find(f"{MODELS} .opblock-body")
    tab_to(browser, f"{MODELS} .try-out__btn")
    press(browser, Keys.ENTER)
    tab_to(browser, f"{MODELS} .execute")
    press(browser, Keys.ENTER)
    browser.wait_for_text("#answer", "status 200")
    tab_to(browser, f"{MODELS} .live-responses-table pre")


@pytest.mark.parametrize("path", ["/", "/play", "/docs"])
def test_scripts_cannot_reach_other_hosts(browser: Browser, path: str) -> None:
    browser.open(path)
    browser.run(
        "new Image().src = 'http://127.0.0.2:9/a.png';"
        "try { document.body.setAttribute('onclick', 'document.title = 1') } catch { }"
        "try { document.body.innerHTML = '<b>text</b>' } catch { }"
        "document.body.click();"
        "return fetch('http://127.0.0.2:9/b').catch(() => 0)"
    )
    reported = browser.violations.copy()
    browser.violations_are_expected = True
    for rule in ("img-src", "connect-src", "TrustedScript", "TrustedHTML"):
        assert [message for message in reported if rule in message], (rule, reported)
    assert browser.driver.title != "1"
    assert [request.url for request in browser.requests if "127.0.0.2" in request.url] == []
