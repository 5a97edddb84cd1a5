"""Check the accessibility of a page, its width on a small screen, and its use by keyboard."""

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.browser import Browser


def check_with_axe(browser: Browser) -> None:
    """Check the open page with axe-core, at two widths and in both colour schemes."""
    for width in (1280, 360):
        for scheme in ("light", "dark"):
            browser.emulate(width=width, prefers_color_scheme=scheme)
            assert browser.find_barriers() == [], (width, scheme)


def check_width(browser: Browser) -> None:
    browser.emulate(width=320)
    wide = browser.run(
        "return [...document.querySelectorAll('main *')].filter((one) => "
        "one.getBoundingClientRect().right > 320).map((one) => one.outerHTML.slice(0, 120))"
    )
    assert browser.run("return document.documentElement.scrollWidth") == 320, wide


def press(browser: Browser, key: str) -> None:
    # send_keys of a file's field would take the key as the name of a file.
    ActionChains(browser.driver).send_keys(key).perform()


def focused(browser: Browser, attribute: str) -> str:
    return str(browser.run("return document.activeElement[arguments[0]]", attribute))


def tab_to(browser: Browser, selector: str) -> None:
    for _ in range(100):
        press(browser, Keys.TAB)
        shown = browser.run(
            "const one = document.activeElement;"
            "const shows = [one, one.nextElementSibling, one.previousElementSibling,"
            "  one.closest('label')].some((near) => near"
            "  && getComputedStyle(near).outlineStyle !== 'none');"
            "return [one.matches(arguments[0]), shows]",
            selector,
        )
        assert shown[1], focused(browser, "outerHTML")[:200]
        if shown[0]:
            return
    pytest.fail(f"{selector} cannot be reached with Tab")
