"""Test that a multipart form from httpx is read unchanged, and that a malformed form is refused."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.submission.forms import MAX_PARTS, read_form

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@given(
    name=names.filter(lambda name: '"' not in name and "\\" not in name),
    data=st.binary() | st.binary().map(lambda data: b"\r\n--" + data + b"\r\n"),
    text=st.text(),
)
def test_form_written_by_httpx_is_read_unchanged(name: str, data: bytes, text: str) -> None:
    request = httpx.Request(
        "POST",
        "http://a",
        files=[(name, ("file name", data, "image/png")), ("option", (None, text))],
    )
    first, second = read_form(request.headers["content-type"], request.read())
    assert (first.name, first.is_file) == (name, True)
    assert (first.media_type, first.data) == ("image/png", data)
    assert (second.name, second.is_file) == ("option", False)
    assert second.data.decode("utf-8", "surrogatepass") == text


HEAD = b'Content-Disposition: form-data; name="a"\r\n'


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"--b\r\n" + HEAD + b"\r\nx\r\n--b--", [b"x"]),
        (b"preamble\r\n--b\r\n" + HEAD + b"\r\n\r\n--b--\r\nepilogue", [b""]),
        (b"--b \t\r\n" + HEAD.replace(b'"', b"").lower() + b"\r\n\r\n\r\n--b--", [b"\r\n"]),
        (b"--b\r\n" + HEAD + b"\r\n--b--", [b""]),
        (b"--b--", []),
    ],
)
def test_preamble_and_empty_parts_are_accepted(body: bytes, data: list[bytes]) -> None:
    parts = read_form("multipart/form-data; boundary=b", body)
    assert [part.data for part in parts] == data
    assert {part.name for part in parts} <= {"a"}


PART = b"--b\r\n" + HEAD + b"\r\nx\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", b"--b--", "boundary"),
        ("multipart/form-data; boundary=", b"--b--", "boundary"),
        (f"multipart/form-data; boundary={'b' * 201}", b"--b--", "boundary"),
        ("multipart/form-data; boundary=b", b"", "boundary"),
        ("multipart/form-data; boundary=b", PART, "does not end"),
        ("multipart/form-data; boundary=b", b"--b\r\nx--b--", "missing or too large"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\n\r\n--b--", "no name"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: \xff\r\n\r\n\r\n--b--", "UTF-8"),
        ("multipart/form-data; boundary=b", b"--b" + b"a" * 9000 + b"\r\n\r\n\r\n--b--", "headers"),
        ("multipart/form-data; boundary=b", PART * (MAX_PARTS + 1) + b"--b--", "more than"),
    ],
)
def test_malformed_form_is_refused(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_form(content_type, body)


@given(body=st.lists(st.sampled_from([b"--b", b"\r\n", HEAD, b"--", b"x", b"\xff"])).map(b"".join))
def test_any_body_is_read_or_raises_value_error(body: bytes) -> None:
    try:
        parts = read_form("multipart/form-data; boundary=b", body)
    except ValueError:
        return
    assert all(part.name == "a" for part in parts)
