"""Conditional requests (RFC 9110, 13): what a caller already has is not sent again."""

import base64
import hashlib
import re
from typing import Final

from fastapi import Request, Response

from gateway import problems
from gateway.problems import Problem

# 15.4.5: what a 200 would have said and a cache needs to know.
_KEPT: Final = frozenset(
    {"cache-control", "content-location", "etag", "preference-applied", "retry-after", "vary"}
)
_TAG: Final = re.compile(r'(W/)?("[^"]*")')

# A job is its caller's own business, and who has an old copy must ask before using it.
_CACHING: Final = "private, no-cache"


def conditional(request: Request, response: Response) -> Response:
    """The response with its ETag, or 304 where If-None-Match names it; 412 as below.

    The tag is strong: it is made of the very bytes, so that the same bytes have the same tag on
    each instance of the app.
    """
    check_match(request, response)
    tag = _tag(bytes(response.body))
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = _CACHING
    if not _names(request.headers.getlist("if-none-match"), tag):
        return response
    kept = {name: value for name, value in response.headers.items() if name in _KEPT}
    return Response(status_code=304, headers=kept)


def check_match(request: Request, response: Response) -> None:
    """The problem precondition-failed where If-Match does not name what this response shows."""
    fields = request.headers.getlist("if-match")
    if fields and not _names(fields, _tag(bytes(response.body)), is_strong=True):
        raise Problem(problems.PRECONDITION_FAILED, "If-Match: there is something else by now")


def _tag(body: bytes) -> str:
    digest = hashlib.blake2b(body, digest_size=15).digest()
    return f'"{base64.urlsafe_b64encode(digest).decode()}"'


def _names(fields: list[str], tag: str, *, is_strong: bool = False) -> bool:
    """Whether one of the tags is this one, by strong or weak comparison; `*` is any."""
    named = [found for field in fields for found in _TAG.findall(field)]
    return any(field.strip() == "*" for field in fields) or any(
        value == tag and not (weak and is_strong) for weak, value in named
    )
