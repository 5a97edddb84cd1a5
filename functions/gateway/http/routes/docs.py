"""The routes of the API's documentation, for example /openapi.json, /docs and /docs/problems."""

from functools import cache
from html import escape
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from contract import media
from contract.messages import JOB_REQUEST_SCHEMA
from gateway.http.problems import PROBLEM_KINDS
from gateway.http.requests import choose_media_type
from gateway.http.responses import json_response

router = APIRouter(include_in_schema=False)

# The pages load nothing from other hosts, and browsers must not allow it.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
}


@router.get("/")
async def index(request: Request) -> Response:
    """Return links as JSON, or the HTML documentation if the Accept header prefers HTML."""
    headers = {"Vary": "Accept"}
    accept = ", ".join(request.headers.getlist("accept"))
    if choose_media_type(accept, (media.JSON, "text/html")) != media.JSON:
        return HTMLResponse(_page("docs.html"), headers={**_PAGE_HEADERS, **headers})
    return json_response(
        {
            "name": "Loosely",
            "docs": "/docs",
            "openapi": "/openapi.json",
            "models": "/v1/models",
            "ready": "/v1/health/ready",
        },
        headers=headers,
    )


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document, version 3.1."""
    return json_response(request.app.openapi())


@router.get("/schemas/job-request.json")
async def job_request_schema() -> Response:
    """Return the JSON Schema of a request on a model's queue, for producers."""
    return Response(_job_request_schema(), media_type="application/schema+json")


@router.get("/docs")
async def page() -> Response:
    """Return the HTML documentation, which the browser generates from /openapi.json."""
    return HTMLResponse(_page("docs.html"), headers=_PAGE_HEADERS)


@router.get("/docs/problems")
async def problem_page() -> Response:
    """Return the page that explains each kind of problem."""
    return HTMLResponse(_problems(), headers=_PAGE_HEADERS)


@cache
def _job_request_schema() -> bytes:
    return JOB_REQUEST_SCHEMA.read_bytes()


@cache
def _page(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def _problems() -> str:
    rows = "\n".join(
        f'<section id="{kind.code}"><h2><code>{kind.code}</code> {kind.status}</h2>'
        f"<p><strong>{escape(kind.title)}.</strong> {_marked(kind.advice)}</p></section>"
        for kind in PROBLEM_KINDS.values()
    )
    return _page("problems.html").replace("<!-- problems -->", rows)


def _marked(text: str) -> str:
    """Return plain text as HTML. Text in backquotes becomes a code element."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )
