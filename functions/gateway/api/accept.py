"""Proactive negotiation (RFC 9110, 12.5.1): which of a resource's media types a caller prefers."""

import re
from collections.abc import Sequence
from typing import Final

_RANGE: Final = re.compile(r"\s*([\w!#$&^.+*-]+)/([\w!#$&^.+*-]+)\s*(?:;(.*))?", re.ASCII)
_WEIGHT: Final = re.compile(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", re.ASCII | re.IGNORECASE)
_MOST_RANGES: Final = 50


def chosen(header: str, offers: Sequence[str]) -> str:
    """The offer that the Accept header likes best; of equals, and of none liked, the first.

    Where nothing fits, RFC 9110 lets a server send what it has rather than 406, which helps nobody.
    """
    ranges = [found for part in header.split(",")[:_MOST_RANGES] if (found := _range(part))]
    return max(offers, key=lambda offer: _weight(offer, ranges)) if ranges else offers[0]


def _range(part: str) -> tuple[str, float] | None:
    match = _RANGE.fullmatch(part)
    if match is None:
        return None
    weights = [_WEIGHT.fullmatch(parameter) for parameter in (match[3] or "").split(";")]
    weight = next((float(found[1]) for found in weights if found), 1.0)
    return f"{match[1]}/{match[2]}".lower(), min(weight, 1.0)


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that has the offer."""
    for wanted in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        weights = [weight for name, weight in ranges if name == wanted]
        if weights:
            return max(weights)
    return 0.0
