"""Test how a real browser draws a job's timeline."""

from typing import Any

import pytest

from tests.browser.browser import Browser
from tests.browser.checks import check_width, check_with_axe
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def draw(browser: Browser, timeline: dict[str, Any]) -> None:
    """Open the front page, and draw a timeline there with the gateway's script timeline.js."""
    browser.open("/")
    failure = browser.driver.execute_async_script(
        "const [timeline, done] = arguments;"
        "const sheet = document.createElement('link');"
        "sheet.rel = 'stylesheet'; sheet.href = '/pages/timeline.css';"
        "sheet.onload = () => import('/pages/timeline.js').then((module) => {"
        "  const place = document.createElement('div'); place.id = 'drawing';"
        "  document.querySelector('h1').after(place);"
        "  module.drawTimeline(place, timeline);"
        "  done(''); }).catch((error) => done(String(error)));"
        "document.head.append(sheet);",
        timeline,
    )
    assert not failure


def timeline_of(system: System) -> dict[str, Any]:
    job = system.submit("noop", b"hello", "text/plain").json()
    found: dict[str, Any] = system.http.get(f"/v1/jobs/{job['id']}/timeline").json()
    return found


def test_each_step_has_a_proportional_bar(browser: Browser, system: System) -> None:
    timeline = timeline_of(system)
    draw(browser, timeline)
    rows = browser.find_all("#drawing .steps tbody tr")
    names = [row.text.split()[0] for row in rows]
    assert names == [step["name"] for step in timeline["steps"]]
    bars = browser.run(
        "return [...document.querySelectorAll('#drawing .steps tbody tr')].map((row) => {"
        "  const track = row.querySelector('.track'), bar = track.querySelector('.span');"
        "  const whole = track.clientWidth - parseFloat(getComputedStyle(track).paddingRight);"
        "  const left = track.getBoundingClientRect().left, place = bar?.getBoundingClientRect();"
        "  return bar && [(place.left - left) / whole, place.width / whole];"
        "})"
    )
    begin_ms = 0.0
    for step, bar, row in zip(timeline["steps"], bars, rows, strict=True):
        if step["duration_ms"] > 0:
            assert bar[0] == pytest.approx(begin_ms / timeline["total_ms"], abs=0.02), step
            assert bar[1] == pytest.approx(step["share"], abs=0.02), step
            assert f"{step['duration_ms']:.1f} ms" in row.text
        begin_ms += step["duration_ms"]
    (delivery,) = browser.find_all("#drawing .deliveries tbody tr")
    assert "answered" in delivery.text
    assert timeline["deliveries"][0]["worker"] in delivery.text
    assert timeline["trace_id"] in browser.find("#drawing").text
    assert browser.messages == []


def test_lost_deliveries_skew_and_webhooks_are_shown(browser: Browser, system: System) -> None:
    timeline = timeline_of(system)
    answered = timeline["deliveries"][0] | {"number": 2}
    lost = answered | {"number": 1, "state": "lost", "received_at": None, "duration_ms": None}
    lost |= {"worker": None, "earliest_at": timeline["accepted_at"]}
    lost |= {"latest_at": timeline["final_at"]}
    timeline["deliveries"] = [lost, answered]
    timeline["steps"][1]["is_adjusted"] = True
    timeline["clock_skew"] = [{"clock": "worker", "worker": "box-7", "ahead_ms": -1500.0}]
    attempt = {"at": timeline["final_at"], "status": 503, "error": None}
    timeline["webhook"] = {"state": "pending", "attempts": [attempt], "next_attempt_at": None}
    draw(browser, timeline)
    assert "nothing is known" in browser.find("#drawing .deliveries tbody tr").text
    assert "*" in browser.find_all("#drawing .steps tbody th")[1].text
    assert "box-7 is at least 1.50 s behind" in browser.find("#drawing").text
    assert "503" in browser.find("#drawing .webhook").text


def test_page_passes_axe(browser: Browser, system: System) -> None:
    draw(browser, timeline_of(system))
    check_with_axe(browser)
    check_width(browser)
