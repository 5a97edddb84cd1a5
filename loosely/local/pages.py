"""The gateway's pages for browsers, and their names as arguments of `loosely open`."""

from collections.abc import Mapping
from typing import Final

#: For each page, the text before its address in the output of `loosely up`. A test compares the
#: names with the gateway's own list.
PAGES: Final[Mapping[str, str]] = {
    "play": "playground",
    "ops": "operations",
    "docs": "API docs",
}


def page_address(url: str, name: str | None) -> str:
    """Return the address of a page of the gateway at ``url``, or of its front page."""
    if name is None:
        return f"{url}/"
    if name not in PAGES:
        raise ValueError(f"there is no page {name!r}; the pages are {', '.join(PAGES)}")
    return f"{url}/{name}"
