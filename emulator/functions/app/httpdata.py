"""HTTP requests and responses as azure.functions' converters take and give them."""

from typing import Any

from azure.functions.meta import Datum


def request_datum(fields: list[Any], body: bytes) -> Datum:
    """Return the datum of an HTTP trigger; the fields are those of the frame."""
    method, url, headers, query, route = fields
    value = {
        "method": Datum(method, "string"),
        "url": Datum(url, "string"),
        "headers": _texts(headers),
        "query": _texts(query),
        "params": _texts(route),
        "body": Datum(body, "bytes"),
    }
    return Datum(value, "http")


def response_of(datum: Datum | None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and body; every cookie is a header of its own."""
    if datum is None or datum.type is None:
        return 204, [], b""
    if datum.type != "http":
        return 200, [("content-type", "text/plain; charset=utf-8")], _as_bytes(datum.value)
    value = datum.value
    headers = [(name, text.value) for name, text in value["headers"].items()]
    for jar in value["cookies"] or ():
        headers += [("set-cookie", morsel.OutputString()) for morsel in jar.values()]
    return int(value["status_code"].value), headers, _as_bytes(value["body"].value)


def _texts(values: dict[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
