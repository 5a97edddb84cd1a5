"""The routes of the pages for browsers, of the pages' files, and of the API's description.

The page NAME is the file NAME.html in the folder `pages`, which also has its scripts and style
sheets; they are served below /pages. A Content-Security-Policy lets pages run only scripts of this
gateway, and connect only to the gateway and to the blob storage of the payloads.
"""

import asyncio
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from contract import media
from contract.catalogue import Catalogue
from contract.messages import JOB_REQUEST_SCHEMA
from gateway import problems
from gateway.http.requests import choose_media_type, services_of
from gateway.http.responses import accepts_gzip, answer_conditionally, json_response
from gateway.problems import PROBLEM_KINDS, HttpProblem
from gateway.settings import GatewaySettings

router = APIRouter(include_in_schema=False)

FOLDER: Final = Path(__file__).parents[1] / "pages"
"""The folder with the pages and their files."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page for browsers. The front page links to it by `title`, and says `summary` about it."""

    name: str
    title: str
    summary: str

    @property
    def path(self) -> str:
        """The URL path at which the gateway serves the page, for example `/play`."""
        return "/" if self.name == "index" else f"/{self.name}"


PAGES: Final = (
    Page(
        "play",
        "Playground",
        "Try a model with a picture, a sound or a text, and see its answer drawn.",
    ),
    Page(
        "ops",
        "Operations",
        "What the queues, workers and jobs do now, and what is wrong. Find jobs, and redrive them.",
    ),
    Page(
        "docs",
        "API",
        "All routes with their parameters, schemas and examples. Send requests from the page.",
    ),
)
"""The pages to which the front page leads, in the order of their links."""

_FRONT: Final = Page("index", "Loosely", "")
_PROBLEMS: Final = Page("problems", "Problems", "")

_TEXT: Final = "; charset=utf-8"
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".css": f"text/css{_TEXT}",
    ".jpg": "image/jpeg",
    ".js": f"text/javascript{_TEXT}",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": f"text/plain{_TEXT}",
    ".wav": "audio/wav",
}

# Browsers ask whether their copy is current. The name of a vendored program's folder contains the
# version, so the content of its files never changes.
_REVALIDATE: Final = "no-cache"
_VENDORED: Final = re.compile("vendor/[^/]+/.+")
_KEEP: Final = "public, max-age=31536000, immutable"
_SAFETY: Final[Mapping[str, str]] = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/")
async def front_page(request: Request) -> Response:
    """Return the paths of routes and pages as JSON, or the front page if Accept prefers HTML."""
    headers = {"Vary": "Accept"}
    accept = ", ".join(request.headers.getlist("accept"))
    if choose_media_type(accept, (media.JSON, "text/html")) != media.JSON:
        entries = "\n".join(
            f'<li><a href="{page.path}">{escape(page.title)}</a> {escape(page.summary)}</li>'
            for page in PAGES
        )
        services = services_of(request)
        first = _first_request(services.catalogue, services.settings)
        content = (
            f'<ul class="entries">\n{entries}\n</ul>\n<section class="first">'
            f'<h2>A first request</h2>\n<pre tabindex="0">{escape(first)}</pre></section>'
        )
        return _html(request, _FRONT, content, headers)
    return json_response(
        {
            "name": "Loosely",
            "docs": "/docs",
            "openapi": "/openapi.json",
            "models": "/v1/models",
            "ready": "/v1/health/ready",
            "pages": {page.name: page.path for page in PAGES},
        },
        headers=headers,
    )


def _first_request(catalogue: Catalogue, settings: GatewaySettings) -> str:
    """Return a curl command that submits a job of the first model of the catalogue."""
    model = next(iter(catalogue.values()))
    media_type = model.media_types[0]
    key = "" if settings.is_open else ' \\\n  -H "Authorization: Bearer $LOOSELY_API_KEY"'
    return (
        f"curl --data-binary @FILE -H 'content-type: {media_type}'{key} \\\n"
        f"  {settings.gateway_base_url}/v1/models/{model.name}/jobs"
    )


def _add_page(page: Page) -> None:
    @router.get(page.path, name=f"{page.name}_page")
    async def show(request: Request) -> Response:
        return _html(request, page, _advice() if page.name == "play" else "")


for _page in PAGES:
    _add_page(_page)


@router.get("/docs/problems")
async def problem_page(request: Request) -> Response:
    """Return the page that explains each kind of problem."""
    sections = "\n".join(
        f'<section id="{kind.code}"><h2><code>{kind.code}</code> {kind.status}</h2>'
        f"<p><strong>{escape(kind.title)}.</strong> {_marked(kind.advice)}</p></section>"
        for kind in PROBLEM_KINDS.values()
    )
    return _html(request, _PROBLEMS, sections)


@router.get("/pages/{path:path}")
async def page_file(request: Request, path: str) -> Response:
    """Return a script, a style sheet or a picture of the pages."""
    if path not in _file_names():
        raise HttpProblem(problems.NOT_FOUND, "there is no file at this path")
    is_zipped = accepts_gzip(request.headers)
    headers = {
        **_SAFETY,
        **({"Content-Encoding": "gzip"} if is_zipped else {}),
        "Vary": "Accept-Encoding",
    }
    # In a thread, because the first compression of a large file takes 0.1 s.
    body = await asyncio.to_thread(_read_file, path, is_zipped=is_zipped)
    response = Response(body, media_type=_MEDIA_TYPES[Path(path).suffix], headers=headers)
    caching = _KEEP if _VENDORED.fullmatch(path) else _REVALIDATE
    return answer_conditionally(request, response, caching)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document, version 3.1."""
    return json_response(request.app.openapi())


@router.get("/schemas/job-request.json")
async def job_request_schema() -> Response:
    """Return the JSON Schema of a request on a model's queue, for producers."""
    return Response(JOB_REQUEST_SCHEMA.read_bytes(), media_type="application/schema+json")


def _content_security_policy(blob_origin: str) -> str:
    """Return the Content-Security-Policy of all pages, which connect to `blob_origin` for payloads.

    Its last two rules prevent scripts from inserting a string into a page as HTML (Trusted Types).
    """
    # `blob:` means only files that the page itself made, for example a preview of a chosen picture.
    own = f"'self' blob: {blob_origin}"
    rules = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        f"img-src {own}",
        f"media-src {own}",
        f"connect-src 'self' {blob_origin}",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return "; ".join(rules)


def _html(
    request: Request, page: Page, content: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page, in which the HTML `content` replaces the comment `<!-- content -->`."""
    policy = _content_security_policy(services_of(request).links.origin)
    response = Response(
        _read_page(page).replace("<!-- content -->", content),
        media_type="text/html",
        headers={"Content-Security-Policy": policy, **_SAFETY, **(headers or {})},
    )
    return answer_conditionally(request, response, _REVALIDATE)


@cache
def _read_page(page: Page) -> str:
    """Return the HTML of a page, including the bar of links at the top of all pages."""
    links = "".join(f"<li>{_link(other, page)}</li>" for other in PAGES)
    header = (
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f'<header class="site">{_link(_FRONT, page)}'
        f'<nav aria-label="Pages"><ul>{links}</ul></nav></header>'
    )
    text = (FOLDER / f"{page.name}.html").read_text(encoding="utf-8")
    return text.replace("<!-- header -->", header)


def _link(target: Page, page: Page) -> str:
    mark = ' aria-current="page"' if target is page else ""
    return f'<a href="{target.path}"{mark}>{escape(target.title)}</a>'


@cache
def _file_names() -> frozenset[str]:
    """Return the paths of all files that are served below /pages."""
    return frozenset(
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.suffix in _MEDIA_TYPES
    )


@cache
def _read_file(path: str, *, is_zipped: bool) -> bytes:
    content = (FOLDER / path).read_bytes()
    # The ETag depends on the content, so all instances of the app must compute the same.
    return gzip.compress(content, mtime=0) if is_zipped else content


@cache
def _advice() -> str:
    """Return what to do about each kind of problem, as HTML that the playground shows."""
    return "\n".join(
        f'<p data-code="{kind.code}">{_marked(kind.advice)}</p>' for kind in PROBLEM_KINDS.values()
    )


def _marked(text: str) -> str:
    """Return plain text as HTML. Text in backquotes becomes a code element."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )
