"""Tests of the request that a web extension receives, compared with Azure's host and with YARP."""

import re
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emulator.functions.forwarding import (
    encode_path,
    request_headers,
    response_headers,
)

PIECES = st.sampled_from(
    [*"aZ0-._~!$&'()*+,;=:@/%", "%2F", "%2f", "%2e", "%25", "%C3%A9", "%ff", "%zz", "..", "."]
)
PATHS = st.lists(PIECES, max_size=20).map(lambda pieces: ("/" + "".join(pieces)).encode())
NAMES = st.sampled_from(
    ["host", "cookie", "x-own", "connection", "x-forwarded-for", "x-ms-invocation-id", "expect"]
)
HEADERS = st.lists(
    st.tuples(NAMES.map(str.encode), st.text("abc;,", max_size=5).map(str.encode)), max_size=8
)


def scope(headers: list[tuple[bytes, bytes]], **others: Any) -> dict[str, Any]:
    return {"headers": headers, "scheme": "http", "client": ("10.0.0.1", 5), **others}


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("/raw/a%2Fb/c%20d", "/raw/a%252Fb/c%20d"),
        ("/raw/a%2fb", "/raw/a%252fb"),
        ("/%41%7E/%c3%a9", "/A~/%C3%A9"),
        ("/%25/%252F/%zz/%", "/%25/%252F/%25zz/%25"),
        ("/%FF/%C3", "/%25FF/%25C3"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2E/c/..", "/"),
        ("/../x", "/x"),
        ("/a//b/", "/a//b/"),
        ('/"<>|{}', "/%22%3C%3E%7C%7B%7D"),
        ("/", "/"),
    ],
)
def test_path_is_decoded_and_encoded_again(sent: str, received: str) -> None:
    assert encode_path(sent.encode()).decode() == received


@given(PATHS | st.binary().map(lambda path: b"/" + path))
def test_any_path_becomes_a_valid_path(path: bytes) -> None:
    encoded = encode_path(path)
    assert re.fullmatch(rb"/(?:[A-Za-z0-9!$&'()*+,\-.:;=@_~/]|%[0-9A-F]{2})*", encoded)
    assert not {b".", b".."} & set(encoded.split(b"/"))
    assert encode_path(encoded.replace(b"%", b"")) == encoded.replace(b"%", b"")


@given(st.text(min_size=1).filter(lambda text: "/" not in text and text not in (".", "..")))
def test_text_in_a_segment_is_unchanged(text: str) -> None:
    sent = "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "replace"))
    assert unquote(encode_path(f"/{sent}".encode()).decode()) == f"/{unquote(sent)}"


@given(PATHS)
@example(b"/%2e/")
def test_slashes_that_are_encoded_stay_encoded(path: bytes) -> None:
    plain = re.sub(rb"(?i)\.|%2e", b"x", path)  # a segment of dots is resolved
    assert encode_path(plain).count(b"/") == plain.count(b"/")
    decoded = unquote_to_bytes(encode_path(plain))
    assert decoded.upper().count(b"%2F") >= plain.upper().count(b"%2F")


@given(HEADERS)
def test_each_header_arrives_once(headers: list[tuple[bytes, bytes]]) -> None:
    got = request_headers(scope(headers), b"127.0.0.1:1", "id")
    names = [name for name, _ in got]
    assert len(names) == len(set(names))
    assert {b"connection", b"expect"}.isdisjoint(names)
    values = dict(got)
    assert values[b"host"] == b"127.0.0.1:1"
    assert values[b"x-ms-invocation-id"] == b"id"
    assert values[b"x-forwarded-for"] == b"10.0.0.1"
    assert values[b"x-forwarded-proto"] == b"http"
    for name, separator in ((b"cookie", b"; "), (b"x-own", b", ")):
        expected = [value for header, value in headers if header == name]
        assert values.get(name) == (separator.join(expected) if expected else None)


def test_response_keeps_all_but_the_connection() -> None:
    kept = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"server", b"uvicorn")]
    dropped = [(b"connection", b"close"), (b"transfer-encoding", b"chunked"), (b"date", b"now")]
    assert response_headers([*kept, *dropped]) == kept
