"""Cross-origin resource sharing (CORS): the rules for web pages of other origins.

The rules belong to the account, and Set Blob Service Properties replaces them. A browser sends a
preflight request to ask whether a page may send a request. The headers of a response decide whether
a page may read this response. CORS does not authorize: each request still needs its credentials.

Source: "Cross-Origin Resource Sharing (CORS) support for Azure Storage" in the REST reference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from emulator.blobs.errors import ErrorCode, StorageError, invalid_xml_value

_RULES_MAX = 5
_ORIGINS_MAX = 64
_LITERAL_HEADERS_MAX = 64
_PREFIXES_MAX = 2
_ITEM_CHARACTERS_MAX = 256
_ALL_RULES_CHARACTERS_MAX = 2 * 1024
_MAX_AGE_MAX = 2**31 - 1

_METHODS = frozenset({"DELETE", "GET", "HEAD", "MERGE", "OPTIONS", "PATCH", "POST", "PUT"})
# The documentation does not list these. Microsoft's tests of its .NET client set them in Azure.
_MORE_METHODS = frozenset({"CONNECT", "TRACE"})
_READING_METHODS = frozenset({"GET", "HEAD"})
_HEADER = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]*\*?")
# A wildcard stands for the whole origin, or for the subdomains of a domain: https://*.contoso.com
_ORIGIN = re.compile(r"\*|([a-z][a-z0-9+.-]*://\*\.)?[!-)+-~]+")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class CorsRule:
    """A rule that allows pages of some origins to send some requests.

    The name of a header may end in `*` and then stands for all names with this prefix.
    """

    allowed_origins: tuple[str, ...]
    allowed_methods: tuple[str, ...]
    allowed_headers: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    max_age_seconds: int = 0

    @property
    def allows_all_origins(self) -> bool:
        """Whether the rule allows pages of every origin."""
        return _ANY in self.allowed_origins

    def matches(self, origin: str, method: str) -> bool:
        """Return whether the rule applies to this method and, case-sensitively, origin."""
        return method.upper() in self.allowed_methods and any(
            _matches_origin(allowed, origin) for allowed in self.allowed_origins
        )

    def allows_headers(self, names: Iterable[str]) -> bool:
        """Return whether a page may send all of these headers."""
        return all(_matches_header(self.allowed_headers, name) for name in names)

    def expose(self, names: Iterable[str]) -> list[str]:
        """Return those of a response's headers `names` that a page may read, by name or prefix."""
        literal = [name for name in self.exposed_headers if not name.endswith(_ANY)]
        prefixes = [name for name in self.exposed_headers if name.endswith(_ANY)]
        known = {name.lower() for name in literal}
        return literal + [
            name for name in names if name.lower() not in known and _matches_header(prefixes, name)
        ]


def rule_for_pages(origins: Collection[str]) -> CorsRule:
    """Return a CORS rule that allows pages of these origins to use signed links to blobs."""
    return CorsRule(
        allowed_origins=(_ANY,) if _ANY in origins else tuple(dict.fromkeys(origins)),
        allowed_methods=("GET", "HEAD", "PUT"),
        allowed_headers=(_ANY,),
        exposed_headers=(_ANY,),
        max_age_seconds=600,
    )


def _matches_origin(allowed: str, origin: str) -> bool:
    if allowed == _ANY:
        return True
    scheme, wildcard, domain = allowed.partition("://*.")
    if not wildcard:
        return allowed == origin
    start, end = f"{scheme}://", f".{domain}"
    return origin.startswith(start) and origin.endswith(end) and len(origin) > len(start) + len(end)


def _matches_header(allowed: Iterable[str], name: str) -> bool:
    name = name.lower()
    return any(
        name.startswith(each[:-1].lower()) if each.endswith(_ANY) else name == each.lower()
        for each in allowed
    )


def check_rules(rules: Sequence[CorsRule]) -> None:
    """Raise StorageError if Azure would refuse these rules, according to its documentation."""
    if len(rules) > _RULES_MAX:
        raise StorageError(
            ErrorCode.INVALID_XML_DOCUMENT,
            Reason=f"Cors must contain at most {_RULES_MAX} CORS rules.",
        )
    for rule in rules:
        _check_rule(rule)
    if sum(_count_characters(rule) for rule in rules) > _ALL_RULES_CHARACTERS_MAX:
        raise invalid_xml_value(
            "Cors",
            "",
            f"All CORS rules together must have at most {_ALL_RULES_CHARACTERS_MAX} characters.",
        )


def _check_rule(rule: CorsRule) -> None:
    origins, methods = rule.allowed_origins, rule.allowed_methods
    if not origins or len(origins) > _ORIGINS_MAX:
        raise invalid_xml_value(
            "AllowedOrigins", "", f"AllowedOrigins must contain 1 to {_ORIGINS_MAX} origins."
        )
    for origin in origins:
        if len(origin) > _ITEM_CHARACTERS_MAX or not _ORIGIN.fullmatch(origin):
            raise invalid_xml_value(
                "AllowedOrigins",
                origin,
                "Each item of AllowedOrigins must be * or an origin of at most "
                f"{_ITEM_CHARACTERS_MAX} characters.",
            )
    if not methods or not set(methods) <= _METHODS | _MORE_METHODS:
        raise invalid_xml_value(
            "AllowedMethods",
            ",".join(methods),
            f"AllowedMethods must contain one or more of {', '.join(sorted(_METHODS))}.",
        )
    _check_headers("AllowedHeaders", rule.allowed_headers)
    _check_headers("ExposedHeaders", rule.exposed_headers)
    if not 0 <= rule.max_age_seconds <= _MAX_AGE_MAX:
        raise invalid_xml_value(
            "MaxAgeInSeconds",
            str(rule.max_age_seconds),
            f"MaxAgeInSeconds must be from 0 to {_MAX_AGE_MAX}.",
        )


def _check_headers(element: str, names: Sequence[str]) -> None:
    for name in names:
        if not name or len(name) > _ITEM_CHARACTERS_MAX or not _HEADER.fullmatch(name):
            raise invalid_xml_value(
                element,
                name,
                f"Each item of {element} must be a header name of at most {_ITEM_CHARACTERS_MAX} "
                "characters, or a prefix that ends with *.",
            )
    prefixes = sum(name.endswith(_ANY) for name in names)
    if prefixes > _PREFIXES_MAX or len(names) - prefixes > _LITERAL_HEADERS_MAX:
        raise invalid_xml_value(
            element,
            "",
            f"{element} must contain at most {_LITERAL_HEADERS_MAX} header names and "
            f"{_PREFIXES_MAX} prefixes.",
        )


def _count_characters(rule: CorsRule) -> int:
    lists = (rule.allowed_origins, rule.allowed_methods, rule.allowed_headers, rule.exposed_headers)
    return sum(len(",".join(items)) for items in lists) + len(str(rule.max_age_seconds))


def answer_preflight(rules: Iterable[CorsRule], headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the response to a preflight request (`headers` in lower case).

    Only the first rule that matches the origin and the method counts, even if a later rule would
    allow the headers. Raises StorageError if the page may not send the request.
    """
    origin = headers.get("origin")
    method = headers.get("access-control-request-method")
    for name, value in (("Origin", origin), ("Access-Control-Request-Method", method)):
        if not value:
            raise StorageError(ErrorCode.MISSING_CORS_HEADER, HeaderName=name)
    assert origin is not None
    assert method is not None
    asked = headers.get("access-control-request-headers")
    names = [name.strip() for name in (asked or "").split(",") if name.strip()]
    rule = next((each for each in rules if each.matches(origin, method)), None)
    if rule is None or not rule.allows_headers(names):
        raise StorageError(ErrorCode.CORS_PREFLIGHT_FAILURE)
    answer = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": method,
        "Access-Control-Max-Age": str(rule.max_age_seconds),
        "Access-Control-Allow-Credentials": "true",
    }
    if asked:
        answer["Access-Control-Allow-Headers"] = asked
    return answer


def build_cors_headers(
    rules: Sequence[CorsRule], method: str, origin: str | None, names: Iterable[str]
) -> dict[str, str]:
    """Return the CORS headers of a response whose other headers have these names."""
    if not rules:
        return {}
    reads = method in _READING_METHODS
    if origin is None:
        # A cache may give this response to a page, so Azure adds what does not depend on the page.
        candidates = [rule for rule in rules if reads and rule.allows_all_origins]
    else:
        candidates = list(rules)
    rule = next((each for each in candidates if each.matches(origin or "", method)), None)
    headers = {}
    if rule is not None:
        headers["Access-Control-Allow-Origin"] = _ANY if rule.allows_all_origins else (origin or "")
        if not rule.allows_all_origins:
            headers["Access-Control-Allow-Credentials"] = "true"
        if exposed := rule.expose(names):
            headers["Access-Control-Expose-Headers"] = ",".join(exposed)
    if reads and not (rule is not None and rule.allows_all_origins):
        headers["Vary"] = "Origin"
    return headers
