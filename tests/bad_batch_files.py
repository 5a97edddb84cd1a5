"""Files of batches that the gateway must refuse, and the lines and codes that it must name."""

import bz2
import gzip
import json
import lzma
import zipfile
from io import BytesIO
from typing import Any, Final

MAX_LINE_BYTES: Final = 8 * 1024 * 1024


def line(custom_id: object = "a", **members: Any) -> bytes:
    """Return a line, whose input is a text unless `members` has another one."""
    source = {} if members.keys() & {"input", "input_url", "upload"} else {"input": {"text": "x"}}
    return json.dumps({"custom_id": custom_id, **source, **members}).encode()


def zipped(data: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("lines.jsonl", data)
    return file.getvalue()


GOOD = line("a") + b"\n" + line("b") + b"\n"
WHOLE = [(0, "unreadable-file")]
NOT_JSON = "invalid-json-line"
DEEP = b'{"custom_id":"a","input":{"json":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
MANY_VALUES = b'{"custom_id":"a","input":{"json":[' + b"1," * 400_000 + b"1]}}"
HUGE_INTEGER = b'{"custom_id":"a","input":{"json":' + b"9" * 5_000 + b"}}"
MALFORMED, INVALID = "malformed-request", "invalid-input"
NO_UPLOAD = "018f0000-0000-7000-8000-000000000000"

BAD_FILES: dict[str, tuple[bytes, list[tuple[int, str]]]] = {
    "empty": (b"", [(0, "empty-file")]),
    "only blank lines": (b"\n\r\n \t\n" * 3, [(0, "empty-file")]),
    "only a byte order mark": (b"\xef\xbb\xbf", [(0, "empty-file")]),
    "UTF-16": (GOOD.decode().encode("utf-16"), WHOLE),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), WHOLE),
    "UTF-32": (GOOD.decode().encode("utf-32"), WHOLE),
    "UTF-32 without a mark": (GOOD.decode().encode("utf-32-be"), WHOLE),
    "Latin-1": (line("a") + b'\n{"custom_id": "\xe9"}', [(2, NOT_JSON)]),
    "gzip": (gzip.compress(GOOD), WHOLE),
    "truncated gzip": (gzip.compress(GOOD)[:20], WHOLE),
    "bzip2": (bz2.compress(GOOD), WHOLE),
    "xz": (lzma.compress(GOOD), WHOLE),
    "zstd": (b"(\xb5/\xfd" + bytes(20), WHOLE),
    "zip": (zipped(GOOD), WHOLE),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), WHOLE),
    "a JSON array": (b"[" + line() + b"]", WHOLE),
    "a pretty-printed object": (b'{\n"custom_id": "a"\n}', [(n, NOT_JSON) for n in (1, 2, 3)]),
    "CSV": (b"custom_id,text\na,x\n", [(1, NOT_JSON), (2, NOT_JSON)]),
    "two objects on a line": (line("a") + line("b"), [(1, NOT_JSON)]),
    "a comma at the end": (line("a") + b",\n" + line("b"), [(1, NOT_JSON)]),
    "CR alone": (line("a") + b"\r" + line("b"), [(1, NOT_JSON)]),
    "a cut line": (GOOD + line("c")[:-5], [(3, NOT_JSON)]),
    "NUL bytes": (line("a") + b"\n" + bytes(20), [(2, NOT_JSON)]),
    "NUL in a text": (line("a").replace(b"x", b"\0"), [(1, NOT_JSON)]),
    "an array on a line": (GOOD + b"[1]", [(3, NOT_JSON)]),
    "a number on a line": (b"7", [(1, NOT_JSON)]),
    "deep JSON": (DEEP, [(1, NOT_JSON)]),
    "too many values": (MANY_VALUES, [(1, NOT_JSON)]),
    "a huge integer": (HUGE_INTEGER, [(1, NOT_JSON)]),
    "a huge float": (line(input={"json": "N"}).replace(b'"N"', b"1e999"), [(1, NOT_JSON)]),
    "NaN": (line(input={"json": float("nan")}), [(1, NOT_JSON)]),
    "half a surrogate pair": (line(input={"text": "\ud800"}), [(1, MALFORMED)]),
    "half a pair in a name": (line(**{"\ud800": 1}), [(1, MALFORMED)]),
    "no custom_id": (b'{"input": {"text": "x"}}', [(1, "missing-custom-id")]),
    "a number as custom_id": (line(7), [(1, "invalid-custom-id")]),
    "an empty custom_id": (line(""), [(1, "invalid-custom-id")]),
    "a long custom_id": (line("x" * 513), [(1, "invalid-custom-id")]),
    "a line break in custom_id": (line("a\nb"), [(1, "invalid-custom-id")]),
    "half a pair in custom_id": (line("\udc00"), [(1, "invalid-custom-id")]),
    "the same custom_id": (GOOD + line("b") + b"\n" + line("a"), [
        (3, "duplicate-custom-id"),
        (4, "duplicate-custom-id"),
    ]),
    "an unknown member": (line(modle="noop"), [(1, MALFORMED)]),
    "another model": (line(model="classifier"), [(1, MALFORMED)]),
    "an unknown member of input": (line(input={"text": "x", "x": 1}), [(1, MALFORMED)]),
    "no input": (b'{"custom_id": "a"}', [(1, MALFORMED)]),
    "two inputs": (line(input={"text": "x"}, upload=NO_UPLOAD), [(1, MALFORMED)]),
    "a text as input": (line(input="x"), [(1, MALFORMED)]),
    "an empty input": (line(input={"text": ""}), [(1, INVALID)]),
    "wrong base64": (line(input={"base64": "a"}), [(1, MALFORMED)]),
    "parameters that are a list": (line(parameters=[1]), [(1, MALFORMED)]),
    "an unknown named input": (line(inputs={"mask": {"text": "x"}}), [(1, INVALID)]),
    "another media type": (line(input={"base64": "aGk=", "media_type": "audio/wav"}), [
        (1, "unsupported-media-type")
    ]),
    "a private URL": (line(input_url="https://127.0.0.1/x"), [(1, INVALID)]),
    "a file URL": (line(input_url="file:///etc/passwd"), [(1, INVALID)]),
    "an upload that does not exist": (line(upload=NO_UPLOAD), [(1, INVALID)]),
    "no upload id": (line(upload="../specs"), [(1, INVALID)]),
    "an input that is too large": (line(input={"text": "x" * 5_000_000}), [
        (1, "payload-too-large")
    ]),
    "a line that is too long": (GOOD + line("c", input={"text": "x" * MAX_LINE_BYTES}), [
        (3, "line-too-long")
    ]),
}  # fmt: skip
