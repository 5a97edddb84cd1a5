"""Cross-origin requests, where the setting names the origins."""

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "X-Api-Key",
    "traceparent",
    "tracestate",
)
_RESPONSE_HEADERS: Final = (
    "Allow",
    "Content-Location",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "traceresponse",
)
_PREFLIGHT_SECONDS: Final = 600


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins use the API. Keys travel in headers, so no cookies are allowed."""
    if not origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_RESPONSE_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )
