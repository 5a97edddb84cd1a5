"""Read and write the Atom documents of the management API."""

from collections.abc import Iterable
from typing import NoReturn
from xml.etree import ElementTree

_ATOM = "http://www.w3.org/2005/Atom"
SERVICE_BUS = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

ElementTree.register_namespace("", _ATOM)
ElementTree.register_namespace("sb", SERVICE_BUS)
ElementTree.register_namespace("d", COUNTS)
ElementTree.register_namespace("i", INSTANCE)


class AtomError(Exception):
    """The body of a request is not an Atom entry with one of the expected descriptions."""


class _Builder(ElementTree.TreeBuilder):
    """A builder of XML trees that refuses documents with a document type declaration.

    Only such a declaration can define entities, which can expand to a huge document.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise AtomError("the request body must not contain a document type declaration")


def parse_entry(body: bytes, *kinds: str) -> ElementTree.Element:
    """Return the element in an Atom entry that has one of the names `kinds`.

    Raises AtomError if the XML is invalid or has no such element.
    """
    try:
        root = ElementTree.fromstring(body, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - _Builder refuses entities
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AtomError(f"the request body is not valid XML: {error}") from error
    for kind in kinds:
        description = root.find(f"{{{_ATOM}}}content/{{{SERVICE_BUS}}}{kind}")
        if description is not None:
            return description
    raise AtomError(f"the request body is not an Atom entry that contains a {' or '.join(kinds)}")


def start_entry(url: str, title: str, kind: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Return a new Atom entry, and its empty description of this kind."""
    entry = ElementTree.Element(f"{{{_ATOM}}}entry")
    add_element(entry, _ATOM, "id", url)
    add_element(entry, _ATOM, "title", title).set("type", "text")
    content = ElementTree.SubElement(entry, f"{{{_ATOM}}}content", {"type": "application/xml"})
    return entry, ElementTree.SubElement(content, f"{{{SERVICE_BUS}}}{kind}")


def read_description(description: ElementTree.Element) -> dict[str, str]:
    """Return the properties of a description by their names."""
    return {
        each.tag.removeprefix(f"{{{SERVICE_BUS}}}"): (each.text or "").strip()
        for each in description
    }


def feed(url: str, entries: Iterable[ElementTree.Element], next_url: str | None) -> bytes:
    """Return an Atom feed with one page of entries, and a link to the next one."""
    root = ElementTree.Element(f"{{{_ATOM}}}feed")
    add_element(root, _ATOM, "id", url)
    add_element(root, _ATOM, "title", "Publicly Listed Services").set("type", "text")
    ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "self", "href": url})
    if next_url is not None:
        ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "next", "href": next_url})
    root.extend(entries)
    return to_bytes(root)


def error_document(code: int, detail: str) -> bytes:
    """Return the XML document that is the body of an error response."""
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = str(code)
    ElementTree.SubElement(root, "Detail").text = _printable(detail)
    return to_bytes(root)


def to_bytes(root: ElementTree.Element) -> bytes:
    """Encode an XML document in UTF-8. `root` is the root element of the document."""
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def add_element(
    parent: ElementTree.Element, namespace: str, name: str, text: str
) -> ElementTree.Element:
    """Add an element with a text to `parent`, and return the element."""
    child = ElementTree.SubElement(parent, f"{{{namespace}}}{name}")
    child.text = text
    return child


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
