"""The Prefer header of RFC 7240, as far as we honour it: `wait` and `respond-async`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.settings import MAX_WAIT_SECONDS

# Up to the next comma that is not within quotes.
_PART: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')


@dataclass(frozen=True, slots=True)
class Preference:
    """What a caller prefers; `wait_seconds` is within what we wait at most."""

    wait_seconds: int | None = None
    respond_async: bool = False

    def wait_or(self, default_seconds: int) -> int:
        """How long to wait: as asked, not at all for `respond-async` alone, else the default."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default_seconds

    def applied(self, *, answered_async: bool) -> str | None:
        """The value of Preference-Applied, or None where no preference was honoured."""
        parts = []
        if self.respond_async and answered_async:
            parts.append("respond-async")
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds}")
        return ", ".join(parts) or None


def parse(values: Iterable[str]) -> Preference:
    """Read the Prefer headers of a request. What is unknown or wrong is ignored, as RFC 7240 says.

    Of a preference that is given twice, the first counts.
    """
    wait_seconds: int | None = None
    respond_async = False
    for part in _PART.findall(",".join(values)):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async" and not value:
            respond_async = True
        elif name == "wait" and wait_seconds is None and value.isascii() and value.isdigit():
            # A number of a thousand digits is only long.
            wait_seconds = min(int(value.lstrip("0")[:9] or "0"), MAX_WAIT_SECONDS)
    return Preference(wait_seconds, respond_async)
