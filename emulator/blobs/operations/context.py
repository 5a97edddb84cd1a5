"""What every operation is given, and the answers' parts that several share."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.blobs.auth import Grant
from emulator.blobs.conditions import Conditions, Versioned
from emulator.blobs.properties import metadata
from emulator.blobs.request import METADATA_PREFIX, Request
from emulator.blobs.store import Store
from emulator.blobs.times import http_date


@dataclass(frozen=True, slots=True)
class Context:
    """A request that was allowed, and what it works on."""

    request: Request
    grant: Grant
    store: Store
    now_us: int

    @property
    def conditions(self) -> Conditions:
        """The request's conditional headers."""
        return Conditions.parse(self.request.headers)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the request sets."""
        return metadata(self.request.metadata_pairs)


def version_headers(resource: Versioned) -> dict[str, str]:
    """``ETag`` and ``Last-Modified``."""
    return {"ETag": resource.etag, "Last-Modified": http_date(resource.modified_us)}


def metadata_headers(pairs: dict[str, str]) -> dict[str, str]:
    """Metadata as response headers."""
    return {METADATA_PREFIX + name: value for name, value in pairs.items()}
