"""An HTTP client that sends the requests of a web page and enforces CORS, like a browser.

It follows the Fetch standard (https://fetch.spec.whatwg.org) for requests without cookies.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_SIMPLE_METHODS = frozenset({"GET", "HEAD", "POST"})
_SIMPLE_HEADERS = frozenset({"accept", "accept-language", "content-language", "content-type"})
_SIMPLE_TYPES = frozenset(
    {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
)
_ALWAYS_READABLE = frozenset(
    {
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    }
)


class Blocked(Exception):
    """CORS does not permit the page to send the request or to read the response."""


@dataclass(frozen=True, slots=True)
class PageResponse:
    """A response as the script of a web page sees it, without headers that CORS hides."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class WebPage:
    """Sends requests as a browser does for a web page."""

    origin: str

    def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> PageResponse:
        given = {name.lower(): value for name, value in (headers or {}).items()}
        urls = [url]
        with httpx.Client(timeout=60) as http:
            while True:
                answer = self._send(http, method, urls, given, content)
                if not answer.has_redirect_location:
                    return answer_of(answer, is_foreign=self._is_foreign(urls))
                urls.append(str(httpx.URL(urls[-1]).join(answer.headers["location"])))
                if answer.status_code == 303:
                    method, content = "GET", None

    def _send(
        self,
        http: httpx.Client,
        method: str,
        urls: list[str],
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> httpx.Response:
        if not self._is_foreign(urls):
            return http.request(method, urls[-1], headers=dict(headers), content=content)
        origin = "null" if self._is_tainted(urls) else self.origin
        asked = sorted(name for name, value in headers.items() if not _is_simple(name, value))
        if asked or method not in _SIMPLE_METHODS:
            _preflight(http, origin, method, urls[-1], asked)
        sent = {**headers, "origin": origin}
        answer = http.request(method, urls[-1], headers=sent, content=content)
        _check_origin(answer, origin, "response")
        return answer

    def _is_foreign(self, urls: list[str]) -> bool:
        return any(origin_of(url) != self.origin for url in urls)

    def _is_tainted(self, urls: list[str]) -> bool:
        """Return whether a foreign server has redirected the request to a different origin.

        A server is foreign if its origin is not the origin of the page. After such a redirect, even
        back to the page's origin, a browser sends the header `Origin: null`. `urls` contains the
        URL of the request and the URLs of its redirects, in this order.
        """
        pairs = itertools.pairwise(urls)
        return any(
            origin_of(url) != origin_of(last) and origin_of(last) != self.origin
            for last, url in pairs
        )


def origin_of(url: str) -> str:
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode()}"


def answer_of(answer: httpx.Response, *, is_foreign: bool) -> PageResponse:
    """Return the part of a response that the script of a web page can read."""
    exposed = answer.headers.get("access-control-expose-headers", "")
    readable = _ALWAYS_READABLE | {name.strip().lower() for name in exposed.split(",")}
    headers = {
        name: value
        for name, value in answer.headers.items()
        if not is_foreign or name in readable or "*" in readable
    }
    return PageResponse(answer.status_code, headers, answer.content)


def _is_simple(name: str, value: str) -> bool:
    if name == "content-type":
        return value.partition(";")[0].strip().lower() in _SIMPLE_TYPES
    return name in _SIMPLE_HEADERS


def _preflight(http: httpx.Client, origin: str, method: str, url: str, asked: list[str]) -> None:
    headers = {"origin": origin, "access-control-request-method": method}
    if asked:
        headers["access-control-request-headers"] = ",".join(asked)
    answer = http.options(url, headers=headers)
    _check_origin(answer, origin, "preflight request")
    if not answer.is_success:
        raise Blocked(f"the preflight request got {answer.status_code}")
    methods, names = (
        {each.strip().lower() for each in answer.headers.get(header, "").split(",")}
        for header in ("access-control-allow-methods", "access-control-allow-headers")
    )
    if method not in _SIMPLE_METHODS and not {method.lower(), "*"} & methods:
        raise Blocked(f"the method {method} is not allowed")
    for name in asked:
        if name not in names and ("*" not in names or name == "authorization"):
            raise Blocked(f"the header {name} is not allowed")


def _check_origin(answer: httpx.Response, origin: str, what: str) -> None:
    if answer.headers.get("access-control-allow-origin") not in {origin, "*"}:
        raise Blocked(f"the {what} does not allow {origin} ({answer.status_code})")
