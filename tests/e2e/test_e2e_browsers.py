"""Test that web pages can upload inputs and read large results if CORS permits it."""

import json
import queue
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.catalogues import LARGE_MODELS
from tests.e2e.system import System, running
from tests.e2e.web_page import Blocked, PageResponse, WebPage, origin_of
from tests.http_server import Request, Response, serve_http

pytestmark = pytest.mark.e2e

UPLOAD_BYTES = 20_000_000
RESULT_BYTES = 3_000_000
OTHER = WebPage("http://localhost:3001")

# What the page does in a real browser. It sends a report to its own server.
SCRIPT = """<!doctype html><title>page</title><script type="module">
const gateway = new URLSearchParams(location.search).get("gateway") || location.origin;
const report = {};
async function step(name, run) {
  try { report[name] = await run(); } catch (error) { report[name] = error.name; }
}
const post = (path, body, type) => fetch(gateway + path, {
  method: "POST", body, headers: type ? {"content-type": type} : {}});
await step("upload", async () => {
  const asked = JSON.stringify({model: "noop", media_type: "application/octet-stream"});
  const slot = await (await post("/v1/uploads", asked, "application/json")).json();
  const body = new Uint8Array(UPLOAD_BYTES);
  const put = await fetch(slot.url, {method: "PUT", headers: slot.headers, body});
  const job = await (await post("/v1/models/noop/jobs?upload=" + slot.upload)).json();
  return [put.status, put.headers.has("etag"), job.result.size_bytes];
});
let job;
await step("job", async () => {
  job = await (await post("/v1/models/big/jobs", "RESULT_BYTES", "text/plain")).json();
  return job.status;
});
const size = async (response) => (await response.json()).text.length;
await step("redirected", async () => size(await fetch(gateway + job.links.result)));
await step("linked", async () => {
  const answer = await fetch(gateway + job.links.result + "?redirect=false");
  return size(await fetch(answer.headers.get("location")));
});
await fetch("/report", {method: "POST", body: JSON.stringify(report)});
</script>""".replace("UPLOAD_BYTES", str(UPLOAD_BYTES)).replace("RESULT_BYTES", str(RESULT_BYTES))


@dataclass(slots=True)
class PageServer:
    """A web server that serves the web page of a test, and receives what the page reports."""

    port: int
    reports: "queue.Queue[dict[str, Any]]"


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    reports: queue.Queue[dict[str, Any]] = queue.Queue()

    def answer(request: Request) -> Response:
        if request.method == "POST":
            reports.put(json.loads(request.body))
            return Response()
        return Response(200, SCRIPT.encode(), {"content-type": "text/html"})

    with serve_http(answer) as url:
        yield PageServer(int(url.rpartition(":")[2]), reports)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, pages: PageServer) -> Iterator[System]:
    data = tmp_path_factory.mktemp("browsers") / "data"
    environment = {"CORS_ORIGINS": f"http://127.0.0.1:{pages.port}"}
    with running(data, LARGE_MODELS, environment=environment) as started:
        yield started


@pytest.fixture
def allowed(pages: PageServer) -> WebPage:
    return WebPage(f"http://127.0.0.1:{pages.port}")


def ask_for_slot(page: WebPage, gateway: str) -> dict[str, Any]:
    asked = {"model": "noop", "media_type": "application/octet-stream"}
    headers = {"content-type": "application/json"}
    answer = page.fetch("POST", f"{gateway}/v1/uploads", headers, json.dumps(asked).encode())
    assert answer.status == 201
    slot: dict[str, Any] = answer.json()
    return slot


def put(page: WebPage, slot: dict[str, Any], content: bytes) -> PageResponse:
    # Browser SDKs of Azure also send headers of their own.
    headers = {**slot["headers"], "x-ms-client-request-id": "page", "if-none-match": "*"}
    return page.fetch("PUT", slot["url"], headers, content)


def run_big(page: WebPage, gateway: str) -> str:
    content = str(RESULT_BYTES).encode()
    answer = page.fetch(
        "POST", f"{gateway}/v1/models/big/jobs", {"content-type": "text/plain"}, content
    )
    job = answer.json()
    assert (job["status"], job["result"]) == ("succeeded", None)
    return f"{gateway}{job['links']['result']}"


def check_upload(page: WebPage, gateway: str) -> None:
    slot = ask_for_slot(page, gateway)
    assert origin_of(slot["url"]) != origin_of(gateway)
    stored = put(page, slot, b"x" * UPLOAD_BYTES)
    assert (stored.status, "etag" in stored.headers) == (201, True)
    job = page.fetch("POST", f"{gateway}/v1/models/noop/jobs?upload={slot['upload']}").json()
    assert job["result"]["size_bytes"] == UPLOAD_BYTES


def check_link(page: WebPage, result_url: str) -> str:
    shown = page.fetch("GET", f"{result_url}?redirect=false")
    url: str = shown.headers["location"]
    assert shown.json()["url"] == url
    result = page.fetch("GET", url)
    assert result.status == 200
    assert len(result.json()["text"]) == RESULT_BYTES
    assert result.headers["x-ms-blob-type"] == "BlockBlob"
    part = page.fetch("GET", url, {"range": "bytes=0-99"})
    assert (part.status, len(part.content)) == (206, 100)
    return url


def test_page_of_allowed_origin_uploads_and_reads(system: System, allowed: WebPage) -> None:
    check_upload(allowed, system.url)
    check_link(allowed, run_big(allowed, system.url))


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_page_of_gateway_uploads_and_follows_link(system: System, name: str) -> None:
    own = f"http://{name}:{system.port}"
    page = WebPage(own)
    check_upload(page, own)
    result_url = run_big(page, own)
    result = page.fetch("GET", result_url)
    assert (result.status, len(result.json()["text"])) == (200, RESULT_BYTES)
    check_link(page, result_url)


def test_page_of_other_origin_cannot_upload_or_read(system: System, allowed: WebPage) -> None:
    slot = ask_for_slot(allowed, system.url)
    url = check_link(allowed, run_big(allowed, system.url))
    # The page has somehow got the links.
    for page in (OTHER, WebPage("null"), WebPage(f"{allowed.origin}0")):
        with pytest.raises(Blocked, match="preflight request"):
            put(page, slot, b"x")
        with pytest.raises(Blocked, match="response"):
            page.fetch("GET", url)
        with pytest.raises(Blocked):
            ask_for_slot(page, system.url)
    assert put(allowed, slot, b"x").status == 201


def test_page_of_other_origin_cannot_follow_redirect(system: System, allowed: WebPage) -> None:
    result_url = run_big(allowed, system.url)
    with pytest.raises(Blocked, match="null"):
        allowed.fetch("GET", result_url)


def test_pages_upload_again_after_storage_restarts(system: System, allowed: WebPage) -> None:
    slot = ask_for_slot(allowed, system.url)
    system.kill_and_wait("blobs")
    assert put(allowed, slot, b"x").status == 201


@contextmanager
def open_in_browser(url: str, profile: Path) -> Iterator[None]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    # Without its sandbox, because the superuser cannot use it. The page is ours.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--disable-background-networking", f"--user-data-dir={profile}"]
    with subprocess.Popen(
        [program, *options, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


def test_real_browser_lets_an_allowed_origin_through(
    system: System, pages: PageServer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{pages.port}/?gateway={system.url}"
    with open_in_browser(url, tmp_path):
        report = pages.reports.get(timeout=60)
    assert report == {
        "upload": [201, True, UPLOAD_BYTES],
        "job": "succeeded",
        "redirected": "TypeError",
        "linked": RESULT_BYTES,
    }


def test_real_browser_blocks_another_origin(
    system: System, pages: PageServer, tmp_path: Path
) -> None:
    url = f"http://localhost:{pages.port}/?gateway={system.url}"
    with open_in_browser(url, tmp_path):
        report = pages.reports.get(timeout=60)
    assert set(report.values()) == {"TypeError"}
    assert httpx.get(f"{system.url}/v1/health/ready").status_code == 200
