"""Test the reader and the checker of a batch's lines with generated files."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import OPENAI_OPERATIONS, Catalogue
from contract.guard import AddressGuard
from gateway.batches.ids import new_batch_id
from gateway.batches.intake import CheckedLine, LineChecker, LineReader, UnreadableFile
from gateway.batches.model import BatchSpec, BatchState, LineProblem
from gateway.batches.native_lines import NativeLines
from gateway.batches.openai_lines import OpenAiLines
from gateway.openai.operations import OPERATIONS
from tests.unit.gateway.memory import MemoryPayloads

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPEC = BatchSpec(new_batch_id(NOW), "", "noop", NOW.isoformat(), NOW.isoformat(), "file")
CATALOGUE = Catalogue.load()
OPENAI = Catalogue({"noop": replace(CATALOGUE["noop"], openai=OPENAI_OPERATIONS)})

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["custom_id", "input", "inputs", "input_url", "parameters", "upload", "model"]
)
SOURCES = st.dictionaries(
    st.sampled_from(["base64", "json", "media_type", "text", "upload", "url"]), VALUES, max_size=2
)
MEMBERS = st.sampled_from(
    [
        *("dimensions", "encoding_format", "file", "image", "input", "language", "mask"),
        *("max_tokens", "messages", "metadata", "n", "prompt", "response_format", "size"),
        *("temperature", "tools", "top_p", "user", "voice"),
    ]
) | st.text(max_size=5)
MEDIA = st.sampled_from(
    [
        *("data:image/png;base64,iVBORw0KGgo=", "https://example.org/x.png", "file-0"),
        *([{"role": "user", "content": "x"}], {"image_url": "data:,"}, "text"),
    ]
)
LINES = st.dictionaries(NAMES | st.text(max_size=5), VALUES | SOURCES, max_size=4)
PIECES = st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b"\r\n", b"{}"]), max_size=30)


def read(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    """Read a file in these pieces, as its intake does."""
    reader = LineReader()
    found: list[tuple[int, bytes]] = []
    for number, piece in enumerate(pieces, 1):
        found += reader.read(reader.rest + piece, is_end=number == len(pieces))
    return found


def read_or_refuse(pieces: list[bytes]) -> list[tuple[int, bytes]] | LineProblem:
    try:
        return read(pieces)
    except UnreadableFile as error:
        return error.problem


def checker() -> LineChecker:
    return LineChecker(SPEC, NativeLines(CATALOGUE, MemoryPayloads()), AddressGuard())


def text_of(value: object) -> bytes:
    """Return JSON, in which Python also writes NaN and half surrogate pairs."""
    return json.dumps(value).encode()


@given(pieces=PIECES)
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    assert read_or_refuse([*pieces, b""]) == read_or_refuse([b"".join(pieces)])


@given(
    rows=st.lists(LINES.map(text_of), min_size=1, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"]),
    size=st.integers(1, 50),
)
def test_each_row_is_read_once(rows: list[bytes], end: bytes, size: int) -> None:
    data = end.join(rows)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    found = read(pieces)
    assert [row for _, row in found] == rows
    step = end.count(b"\n")
    assert [number for number, _ in found] == [1 + step * place for place in range(len(rows))]


@given(data=st.binary(max_size=200))
def test_any_bytes_are_checked(data: bytes) -> None:
    found = checker().check(1, data)
    assert isinstance(found, LineProblem)  # random bytes are no valid line


@given(value=LINES)
def test_any_line_is_checked(value: dict[str, object]) -> None:
    found = checker().check(1, text_of(value))
    if isinstance(found, LineProblem):
        state = BatchState(problems=[found])
        assert BatchState.decode(state.encode()).problems == [found]
    else:
        assert value["custom_id"] == found.custom_id


@given(
    operation=st.sampled_from(sorted(OPERATIONS)),
    body=st.dictionaries(MEMBERS, VALUES | MEDIA, max_size=6),
)
def test_any_call_is_checked(operation: str, body: dict[str, object]) -> None:
    path = OPERATIONS[operation].path
    spec = replace(SPEC, operation=operation, extra={"endpoint": f"/v1{path}"})
    lines = LineChecker(spec, OpenAiLines(OPENAI, MemoryPayloads()), AddressGuard())
    called = {"method": "POST", "url": f"/v1{path}", "body": {**body, "model": "noop"}}
    found = lines.check(1, text_of({"custom_id": "a", **called}))
    if isinstance(found, LineProblem):
        assert BatchState(problems=[found]).encode()


@given(names=st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=20))
def test_second_use_of_an_id_is_refused(names: list[str]) -> None:
    lines = checker()
    accepted: list[str] = []
    for number, name in enumerate(names, 1):
        row = text_of({"custom_id": name, "input": {"text": "x"}})
        if isinstance(found := lines.check(number, row), CheckedLine):
            accepted.append(found.custom_id)
        elif found.code == "duplicate-custom-id":
            assert name in accepted
    assert len(accepted) == len(set(accepted))
