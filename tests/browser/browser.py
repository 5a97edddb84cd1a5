"""Control a headless Chromium in tests, and record its requests and console messages."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1" / "axe.min.js"
WAIT_SECONDS = 30.0

_NETWORK = {"http", "https", "ws", "wss", "ftp"}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_OPTIONS = (
    "--headless=new",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # Recording needs neither a microphone nor a camera, and no permission is asked for.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request that a page has sent. The names of `headers` are in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]


class Browser:
    """One tab of a headless Chromium, with its requests and its console's messages (SEVERE)."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self._url = url
        self._requests: dict[str, SentRequest] = {}
        self._messages: list[str] = []
        self.violations_are_expected = False

    def emulate(self, *, width: int = 1280, height: int = 900, **features: str) -> None:
        """Set the size of the viewport in CSS pixels, and CSS media features."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # An element whose colour is just changing would have any contrast.
        features = {"prefers_reduced_motion": "reduce", **features}
        media = [{"name": name.replace("_", "-"), "value": text} for name, text in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        # The page's listeners of these features are called with the next frame.
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    def open(self, path: str) -> None:
        self.driver.get(f"{self._url}{path}")

    def find(self, selector: str) -> WebElement:
        def find_visible() -> bool:
            found[:] = [one for one in self.find_all(selector) if one.is_displayed()]
            return bool(found)

        found: list[WebElement] = []
        self.wait(find_visible, f"no visible element matches {selector}")
        return found[0]

    def text_of(self, selector: str) -> str:
        return str(
            self.run("return document.querySelector(arguments[0])?.innerText", selector) or ""
        )

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait(lambda: text in self.find(selector).text, f"{selector} does not show {text!r}")

    def wait(self, condition: Callable[[], bool], failure: str) -> None:
        # A page may replace an element between two requests of the condition.
        replaced = (StaleElementReferenceException,)
        wait = WebDriverWait(self.driver, WAIT_SECONDS, 0.05, ignored_exceptions=replaced)
        wait.until(lambda _: condition(), failure)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, and return the return value of the script."""
        return self.driver.execute_script(script, *arguments)

    def omit_members(self, *names: str) -> None:
        """Hide members of all later JSON responses, as an older gateway would."""
        script = (
            "{ const read = Response.prototype.json;"
            "  const omit = (value) => {"
            f"   for (const name of {json.dumps(names)}) delete value?.[name];"
            "    for (const each of Object.values(value ?? {}))"
            "      if (Array.isArray(each)) each.forEach(omit);"
            "    return value; };"
            "  Response.prototype.json = async function () {"
            "    return omit(await read.call(this)); }; }"
        )
        add = "Page.addScriptToEvaluateOnNewDocument"
        self.driver.execute_cdp_cmd(add, {"source": script})
        self.run(script)

    def find_barriers(self) -> list[str]:
        """Return the accessibility violations that axe-core finds: rule, element and reason."""
        if not self.run("return 'axe' in window"):
            self.run(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "axe.run({resultTypes: ['violations'], preload: false})"
            ".then(arguments[arguments.length - 1])"
        )
        return [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    @property
    def requests(self) -> list[SentRequest]:
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            event = json.loads(entry["message"])["message"]
            self._note(event["method"], event["params"])
        return list(self._requests.values())

    def _note(self, method: str, event: Mapping[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            sent = event["request"]
            headers = {name.lower(): text for name, text in sent["headers"].items()}
            request = SentRequest(sent["method"], sent["url"], headers)
            self._requests[f"{event['requestId']} {sent['url']}"] = request
        elif method == "Network.loadingFailed" and event.get("blockedReason") == "csp":
            # The policy of the page has blocked this request, so it was not sent.
            blocked = f"{event['requestId']} "
            self._requests = {
                name: one for name, one in self._requests.items() if not name.startswith(blocked)
            }

    @property
    def messages(self) -> list[str]:
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self._messages += [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
        return self._messages

    def drop_logs(self) -> None:
        """Discard the logs of the browser, so that the tab of the next test does not read them."""
        for name in ("browser", "performance"):
            self.driver.get_log(name)  # type: ignore[no-untyped-call]

    @property
    def violations(self) -> list[str]:
        """All messages about violations of the Content-Security-Policy, including Trusted Types."""
        words = ("Content Security Policy", "Trusted")
        return [message for message in self.messages if any(word in message for word in words)]

    @property
    def foreign_requests(self) -> list[str]:
        found = [urlsplit(request.url) for request in self.requests]
        return [
            url.geturl()
            for url in found
            if url.scheme in _NETWORK and url.hostname not in _LOOPBACK
        ]


@contextmanager
def start_chromium(profile: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # Chromium refuses to run its sandbox as root.
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    for option in (*_OPTIONS, *root, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()
