"""Queue descriptions as the Service Bus management API writes them: Atom entries around XML."""

from collections.abc import Iterable
from typing import NoReturn
from xml.etree import ElementTree

_ATOM = "http://www.w3.org/2005/Atom"
_SERVICE_BUS = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"

ElementTree.register_namespace("", _ATOM)
ElementTree.register_namespace("sb", _SERVICE_BUS)
ElementTree.register_namespace("d", _COUNTS)


class AtomError(Exception):
    """The request's XML cannot be read."""


class _Builder(ElementTree.TreeBuilder):
    """Builds no tree from a document with a type declaration, and so none with entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise AtomError("a document type declaration is not accepted")


def read_description(body: bytes, kind: str) -> dict[str, str]:
    """Return the properties in an entry with a description of this kind; raises AtomError."""
    try:
        root = ElementTree.fromstring(body, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - no entities
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AtomError(f"the body is not XML: {error}") from error
    description = root.find(f"{{{_ATOM}}}content/{{{_SERVICE_BUS}}}{kind}")
    if description is None:
        raise AtomError(f"the body is not an Atom entry with a {kind}")
    return {
        each.tag.removeprefix(f"{{{_SERVICE_BUS}}}"): (each.text or "").strip()
        for each in description
    }


def queue_entry(
    url: str, name: str, properties: Iterable[tuple[str, str]], counts: Iterable[tuple[str, int]]
) -> ElementTree.Element:
    """Return the entry that describes a queue."""
    entry = ElementTree.Element(f"{{{_ATOM}}}entry")
    _add(entry, _ATOM, "id", url)
    _add(entry, _ATOM, "title", name).set("type", "text")
    content = ElementTree.SubElement(entry, f"{{{_ATOM}}}content", {"type": "application/xml"})
    description = ElementTree.SubElement(content, f"{{{_SERVICE_BUS}}}QueueDescription")
    for property_name, value in properties:
        _add(description, _SERVICE_BUS, property_name, value)
    details = ElementTree.SubElement(description, f"{{{_SERVICE_BUS}}}CountDetails")
    for count_name, count in counts:
        _add(details, _COUNTS, count_name, str(count))
    return entry


def feed(url: str, entries: Iterable[ElementTree.Element], next_url: str | None) -> bytes:
    """Return a page of entries as XML, with a link to the next page if there is one."""
    root = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(root, _ATOM, "id", url)
    _add(root, _ATOM, "title", "Publicly Listed Services").set("type", "text")
    ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "self", "href": url})
    if next_url is not None:
        ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "next", "href": next_url})
    root.extend(entries)
    return to_bytes(root)


def error_document(code: int, detail: str) -> bytes:
    """Return the body of a refusal."""
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = str(code)
    ElementTree.SubElement(root, "Detail").text = _printable(detail)
    return to_bytes(root)


def to_bytes(root: ElementTree.Element) -> bytes:
    """Return an element as a document."""
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _add(parent: ElementTree.Element, namespace: str, name: str, text: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{namespace}}}{name}")
    child.text = text
    return child


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
