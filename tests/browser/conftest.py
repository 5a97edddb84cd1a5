"""Fixtures with a complete local system and a real browser."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver import Chrome

from tests.browser.browser import Browser, missing_programs, start_chromium
from tests.e2e.system import System, running


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Run one Chromium for all browser tests.

    If Chromium is not installed, the tests are skipped. In CI (the environment variable CI is 1),
    they fail instead.
    """
    if missing := missing_programs():
        reason = f"not installed: {', '.join(missing)} (Debian: chromium, chromium-driver)"
        if os.environ.get("CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="session")
def system(chromium: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("loosely") / "data") as started:
        yield started


@contextmanager
def open_tab(chromium: Chrome, url: str) -> Iterator[Browser]:
    """Yield a new tab with empty storage for the gateway with this URL.

    At the end of the `with` block, check what the page has sent and logged. No page may send a
    request to another host. No page may violate its Content-Security-Policy, unless the test
    expects violations.
    """
    before = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    browser = Browser(chromium, url)
    browser.emulate()
    yield browser
    foreign, violations = browser.foreign_requests, browser.violations
    chromium.get("about:blank")  # the page must not send or log anything during the next test
    browser.drop_logs()
    tab = chromium.current_window_handle
    chromium.switch_to.window(before)
    chromium.close()
    chromium.switch_to.window(tab)
    assert foreign == []
    assert violations == [] or browser.violations_are_expected


@pytest.fixture
def browser(chromium: Chrome, system: System) -> Iterator[Browser]:
    with open_tab(chromium, system.url) as browser:
        yield browser
