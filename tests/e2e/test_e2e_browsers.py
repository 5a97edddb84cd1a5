"""Test that web pages can upload inputs and read large results if CORS permits it."""

import json
import os
import queue
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.e2e.catalogues import LARGE_MODELS
from tests.e2e.system import System, running
from tests.http_server import Request, Response, serve_http

pytestmark = pytest.mark.e2e

UPLOAD_BYTES = 20_000_000
RESULT_BYTES = 3_000_000

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
const given = new URLSearchParams(location.search).get("link");
await step("given", async () => size(await fetch(given)));
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


def link_to_result(system: System) -> str:
    job = system.submit("big", str(RESULT_BYTES).encode(), "text/plain").json()
    return str(system.http.get(job["links"]["result"]).headers["location"])


@contextmanager
def open_in_browser(url: str, profile: Path) -> Iterator[None]:
    program = shutil.which("chromium")
    if program is None:
        leave = pytest.fail if os.environ.get("CI") == "1" else pytest.skip
        leave("chromium is not installed")
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["allowed", "another origin"])
def test_only_an_allowed_origin_uploads_and_reads(
    system: System, pages: PageServer, tmp_path: Path, host: str
) -> None:
    link = quote(link_to_result(system), safe="")
    url = f"http://{host}:{pages.port}/?gateway={system.url}&link={link}"
    with open_in_browser(url, tmp_path):
        report = pages.reports.get(timeout=60)
    assert httpx.get(f"{system.url}/v1/health/ready").status_code == 200
    if host == "localhost":
        assert set(report.values()) == {"TypeError"}
        return
    assert report == {
        "upload": [201, True, UPLOAD_BYTES],
        "job": "succeeded",
        "redirected": "TypeError",
        "linked": RESULT_BYTES,
        "given": RESULT_BYTES,
    }
