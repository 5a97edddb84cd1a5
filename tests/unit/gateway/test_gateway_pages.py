"""Test the pages for browsers, their files and policy, and the page of all problems."""

import gzip
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway import problems
from gateway.http.routes.pages import FOLDER, PAGES
from loosely.local.pages import PAGES as LOCAL_PAGES
from tests.unit.gateway.conftest import RunningGateway

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PATHS = ["/", "/docs/problems", *(page.path for page in PAGES)]
SCRIPT = "/pages/vendor/swagger-ui-5.35.0/swagger-ui-bundle.js"
EXAMPLE_FILES = Path(__file__).parents[3] / "examples"
VENDORED = [FOLDER / "vendor", Path(__file__).parents[2] / "browser" / "vendor"]


class Markup(HTMLParser):
    """The URLs that an HTML page loads, and the page's links, ids and inline code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if "src" in given or tag == "link":
            self.loads.append(given.get("src") or given["href"])
        elif tag == "a":
            self.links.append(given["href"])
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


async def markup_of(gateway: RunningGateway, path: str) -> Markup:
    answer = await gateway.http.get(path, headers=HTML)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<!-- " not in answer.text
    return Markup(answer.text)


@pytest.mark.parametrize("path", PATHS)
async def test_page_has_static_files_and_links_that_work(
    gateway: RunningGateway, path: str
) -> None:
    page = await markup_of(gateway, path)
    assert page.inline == []
    assert "/pages/site.css" in page.loads
    for url in page.loads:
        assert url.startswith("/pages/")
        assert (await gateway.http.get(url)).status_code == 200, url
    for link in {link.partition("#")[0] for link in page.links} - {""}:
        assert (await gateway.http.get(link)).status_code == 200, link


@pytest.mark.parametrize("path", PATHS)
async def test_policy_allows_only_gateway_and_blobs(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.http.get(path, headers=HTML)
    rules = {
        rule.split()[0]: rule.split()[1:]
        for rule in answer.headers["content-security-policy"].split("; ")
    }
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == ["'self'"]
    assert rules["connect-src"] == ["'self'", "http://blobs.test"]
    assert rules["img-src"] == rules["media-src"] == ["'self'", "blob:", "http://blobs.test"]
    assert rules["trusted-types"] == rules["frame-ancestors"] == rules["base-uri"] == ["'none'"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_front_page_and_root_document_link_to_pages(gateway: RunningGateway) -> None:
    page = await markup_of(gateway, "/")
    assert {page.path for page in PAGES} <= set(page.links)
    document = await gateway.get("/")
    assert document["pages"] == {page.name: page.path for page in PAGES}
    assert document["docs"] == "/docs"
    for name in ("openapi", "models", "ready"):
        assert await gateway.get(document[name])


def test_open_command_knows_all_pages() -> None:
    assert list(LOCAL_PAGES) == [page.name for page in PAGES]


@pytest.mark.parametrize("name", ["chelsea.jpg", "coffee.jpg", "speech.wav"])
async def test_samples_equal_the_examples(gateway: RunningGateway, name: str) -> None:
    answer = await gateway.http.get(f"/pages/samples/{name}")
    assert answer.content == (EXAMPLE_FILES / name).read_bytes()
    licences = (await gateway.http.get("/pages/samples/LICENSE.txt")).text
    assert name in licences
    assert (EXAMPLE_FILES / "speech.LICENSE.txt").read_text("utf-8") in licences


async def test_playground_has_the_advice_for_each_problem(gateway: RunningGateway) -> None:
    page = await gateway.http.get("/play", headers=HTML)
    for code in problems.PROBLEM_KINDS:
        assert f'<p data-code="{code}">' in page.text


async def test_current_etag_gets_304(gateway: RunningGateway) -> None:
    for path, caching in (
        ("/docs", "no-cache"),
        ("/pages/docs.js", "no-cache"),
        ("/pages/vendor/manifest.json", "no-cache"),
        (SCRIPT, "public, max-age=31536000, immutable"),
    ):
        first = await gateway.http.get(path)
        assert first.headers["cache-control"] == caching
        tag = {"if-none-match": first.headers["etag"]}
        again = await gateway.http.get(path, headers=tag)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == caching


@pytest.mark.parametrize(
    ("accepted", "is_zipped"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("gzipped", False),
        ("", False),
    ],
)
async def test_file_is_compressed_only_if_accepted(
    gateway: RunningGateway, accepted: str, is_zipped: bool
) -> None:
    expected = (FOLDER / "site.css").read_bytes()
    url = "/pages/site.css"
    async with gateway.http.stream("GET", url, headers={"accept-encoding": accepted}) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers.get("content-encoding") == ("gzip" if is_zipped else None)
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (gzip.decompress(raw) if is_zipped else raw) == expected


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/pages/docs.js", "text/javascript; charset=utf-8"),
        ("/pages/docs.css", "text/css; charset=utf-8"),
        ("/pages/icon.svg", "image/svg+xml"),
        ("/pages/vendor/swagger-ui-5.35.0/LICENSE.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_file_has_the_media_type_of_its_extension(
    gateway: RunningGateway, path: str, media_type: str
) -> None:
    assert (await gateway.http.get(path)).headers["content-type"] == media_type


@pytest.mark.parametrize(
    "path",
    [
        *("/pages/docs.html", "/pages/nothing.js", "/pages/../routes/pages.py", "/pages/vendor"),
        *("/pages/..%2f..%2fapp.py", "/pages/%2e%2e/routes/pages.py", "/pages//etc/passwd"),
    ],
)
async def test_file_outside_the_folder_gets_404(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


async def test_problems_page_has_a_section_for_each_code(gateway: RunningGateway) -> None:
    page = await markup_of(gateway, "/docs/problems")
    assert page.ids - {"content"} == set(problems.PROBLEM_KINDS)


@pytest.mark.parametrize("folder", VENDORED)
def test_vendored_files_have_the_digests_of_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    listed = {
        f"{package['folder']}/{name}": digest
        for package in manifest["packages"]
        for name, digest in package["files"].items()
    }
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == listed
    for package in manifest["packages"]:
        assert package["version"] in package["folder"]
        assert "LICENSE.txt" in package["files"]
        assert package["licence"]


PAGE = (Path(__file__).parents[3] / "docs/reference/problems.md").read_text(encoding="utf-8")


def test_document_has_a_row_for_each_problem() -> None:
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.ProblemKind)]
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{kind.code}` | {kind.status} | {'yes' if kind.retryable else 'no'} "
        f"| {kind.title}. {kind.advice} |"
        for kind in kinds
    ]
