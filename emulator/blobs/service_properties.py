"""The properties of the account's Blob service, as the XML documents of the REST API.

CORS rules take effect. All other properties are stored and returned, but have no effect: nothing is
logged or measured, and a deleted blob cannot be restored. A static website is refused, because it
would make blobs public.

Source: "Set Blob Service Properties" in the REST reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from xml.sax.saxutils import escape

from emulator.blobs.cors import CorsRule, check_rules
from emulator.blobs.errors import ErrorCode, StorageError, invalid_xml_value, not_implemented
from emulator.blobs.xml import XmlElement, build_element, parse_element

_ROOT = "StorageServiceProperties"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
_DAYS_MAX = 365
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NUMBER = re.compile(r"\d{1,10}", re.ASCII)

Check = Callable[[XmlElement], None]


def parse_properties(document: bytes) -> dict[str, str]:
    """Return the properties in a request's body, as XML text by name.

    Raises StorageError if a property is invalid or not supported.
    """
    root = parse_element(document)
    if root.name != _ROOT:
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
    _check_names(root, _PROPERTIES)
    for child in root.children:
        _PROPERTIES[child.name](child)
    return {child.name: build_element(child) for child in root.children}


def build_properties(stored: Mapping[str, str]) -> str:
    """Return the document of Get Blob Service Properties, with defaults besides `stored`."""
    elements = {**_DEFAULTS, **stored}
    return f"{_DECLARATION}<{_ROOT}>{''.join(elements.values())}</{_ROOT}>"


def read_cors_rules(stored: Mapping[str, str]) -> tuple[CorsRule, ...]:
    """Return the CORS rules in `stored`, a dict from the name of each property to its XML text."""
    text = stored.get("Cors")
    return () if text is None else _rules(parse_element(text.encode()))


def build_cors(rules: Sequence[CorsRule]) -> dict[str, str]:
    """Return these rules as the property `Cors`. Raises StorageError if a rule is invalid."""
    check_rules(rules)
    return {"Cors": f"<Cors>{''.join(map(_build_rule, rules))}</Cors>"}


def _build_rule(rule: CorsRule) -> str:
    elements = {
        "AllowedOrigins": ",".join(rule.allowed_origins),
        "AllowedMethods": ",".join(rule.allowed_methods),
        "AllowedHeaders": ",".join(rule.allowed_headers),
        "ExposedHeaders": ",".join(rule.exposed_headers),
        "MaxAgeInSeconds": str(rule.max_age_seconds),
    }
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items())
    return f"<CorsRule>{inner}</CorsRule>"


def _rules(cors: XmlElement) -> tuple[CorsRule, ...]:
    if any(child.name != "CorsRule" for child in cors.children):
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
    rules = tuple(_rule(child) for child in cors.children)
    check_rules(rules)
    return rules


def _rule(element: XmlElement) -> CorsRule:
    _check_names(element, _RULE, _RULE)
    values = {child.name: child.text for child in element.children}
    age = values["MaxAgeInSeconds"]
    if not _NUMBER.fullmatch(age):
        raise invalid_xml_value("MaxAgeInSeconds", age, "MaxAgeInSeconds must be a whole number.")
    return CorsRule(
        _items(values["AllowedOrigins"]),
        tuple(method.upper() for method in _items(values["AllowedMethods"])),
        _items(values["AllowedHeaders"]),
        _items(values["ExposedHeaders"]),
        int(age),
    )


_RULE = ("AllowedOrigins", "AllowedMethods", "AllowedHeaders", "ExposedHeaders", "MaxAgeInSeconds")


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",")) if text else ()


def _check_names(
    element: XmlElement, known: Collection[str], required: Collection[str] = ()
) -> None:
    """Raise StorageError if a child's name is unknown, occurs twice or is missing."""
    names = [child.name for child in element.children]
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
    for name in required:
        if name not in names:
            raise StorageError(ErrorCode.MISSING_REQUIRED_XML_NODE, XmlNodeName=name)


def _struct(*required: str, **members: Check) -> Check:
    """Return a check of an XML element: its required children, and a check of each child."""

    def check(element: XmlElement) -> None:
        _check_names(element, members, required)
        for child in element.children:
            members[child.name](child)

    return check


def _text(element: XmlElement) -> None:
    if element.children:
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)


def _boolean(element: XmlElement) -> None:
    _text(element)
    if element.text not in {"true", "false"}:
        raise invalid_xml_value(
            element.name, element.text, f"{element.name} must be true or false."
        )


def _days(element: XmlElement) -> None:
    _text(element)
    if not (_NUMBER.fullmatch(element.text) and 1 <= int(element.text) <= _DAYS_MAX):
        raise invalid_xml_value(
            element.name, element.text, f"{element.name} must be from 1 to {_DAYS_MAX}."
        )


def _version(element: XmlElement) -> None:
    _text(element)
    if not _VERSION.fullmatch(element.text):
        raise invalid_xml_value(
            element.name, element.text, f"{element.name} must be an API version such as 2021-12-02."
        )


def _retention(element: XmlElement) -> None:
    check = _struct("Enabled", Enabled=_boolean, Days=_days, AllowPermanentDelete=_boolean)
    check(element)
    values = {child.name: child.text for child in element.children}
    if values["Enabled"] == "true" and "Days" not in values:
        raise StorageError(ErrorCode.MISSING_REQUIRED_XML_NODE, XmlNodeName="Days")


def _website(element: XmlElement) -> None:
    check = _struct(
        "Enabled",
        Enabled=_boolean,
        IndexDocument=_text,
        ErrorDocument404Path=_text,
        DefaultIndexDocumentPath=_text,
    )
    check(element)
    if any((child.name, child.text) == ("Enabled", "true") for child in element.children):
        raise not_implemented("StaticWebsite")


def _cors(element: XmlElement) -> None:
    _rules(element)


_METRICS = _struct(
    "Version",
    "Enabled",
    Version=_text,
    Enabled=_boolean,
    IncludeAPIs=_boolean,
    RetentionPolicy=_retention,
)
_PROPERTIES: Mapping[str, Check] = {
    "Logging": _struct(
        "Version",
        "Delete",
        "Read",
        "Write",
        Version=_text,
        Delete=_boolean,
        Read=_boolean,
        Write=_boolean,
        RetentionPolicy=_retention,
    ),
    "HourMetrics": _METRICS,
    "MinuteMetrics": _METRICS,
    "Cors": _cors,
    "DefaultServiceVersion": _version,
    "DeleteRetentionPolicy": _retention,
    "StaticWebsite": _website,
}

_NO_RETENTION = "<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
_NO_METRICS = f"<Version>1.0</Version><Enabled>false</Enabled>{_NO_RETENTION}"
# In the order in which Azure sends them.
_DEFAULTS: Mapping[str, str] = {
    "Logging": "<Logging><Version>1.0</Version><Delete>false</Delete><Read>false</Read>"
    f"<Write>false</Write>{_NO_RETENTION}</Logging>",
    "HourMetrics": f"<HourMetrics>{_NO_METRICS}</HourMetrics>",
    "MinuteMetrics": f"<MinuteMetrics>{_NO_METRICS}</MinuteMetrics>",
    "Cors": "<Cors />",
    "DeleteRetentionPolicy": "<DeleteRetentionPolicy><Enabled>false</Enabled>"
    "</DeleteRetentionPolicy>",
    "StaticWebsite": "<StaticWebsite><Enabled>false</Enabled></StaticWebsite>",
}
