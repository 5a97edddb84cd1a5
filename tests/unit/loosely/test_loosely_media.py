import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely.client.media import detect_media_type


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "wrong.png", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "", "image/png"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "", "audio/wav"),
        (b"hello", "NOTE.TXT", "text/plain"),
        (b"{}", "input.json", "application/json"),
        (b"", "empty.jpg", "image/jpeg"),
        (b"\x00\x01", "data.bin", "application/octet-stream"),
        (b"RIFF", "", "application/octet-stream"),
    ],
)
def test_content_precedes_file_name(content: bytes, name: str, expected: str) -> None:
    assert detect_media_type(content, name) == expected


@given(st.binary(), st.text())
def test_any_content_has_a_media_type(content: bytes, name: str) -> None:
    kind, _, form = detect_media_type(content, name).partition("/")
    assert kind
    assert form
