"""Check that one instance of the gateway in Azure has enough memory, even in the worst case."""

import asyncio
import base64
import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from contract.catalogue import DEFAULT_PATH, Catalogue
from gateway.bodies import SMALL_BODY_BYTES, STREAMED_BYTES, IncomingBody, LargeBodies
from gateway.settings import BODY_MEMORY_BYTES
from gateway.submission.parse import RequestParts, parse_submission

BICEP = Path(__file__).parents[2] / "infra" / "main.bicep"
MIB = 1024**2
HOST_BYTES = 250 * MIB
"""The memory of Azure's Functions host without requests. A measurement gave 240 MB."""

HOST_COPIES = 4
"""How many bytes of memory the host needs at most for each byte of a request's body.

It reads a body into a string, in which one byte becomes two, and copies the string once.
"""

IDLE_BYTES = 150 * MIB
"""The memory of the app's process without requests. A measurement gave 100 MiB."""

PARSE_BYTES = 120 * MIB
"""The memory that the parser of large bodies needs. It parses one body at a time."""

COPIES = 2
"""How many copies of a body are in the app's memory at the same time.

A body is joined from its pieces, and its input is copied for the upload to storage.
"""


def number_in_bicep(name: str) -> int:
    found = re.search(rf"\bparam {name} int = (\d+)", BICEP.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def test_instance_has_more_than_the_maximum() -> None:
    concurrency = number_in_bicep("gatewayConcurrency")
    limit_bytes = Catalogue.load(DEFAULT_PATH).body_limit_bytes
    app_bytes = (
        IDLE_BYTES + PARSE_BYTES + COPIES * (BODY_MEMORY_BYTES + concurrency * SMALL_BODY_BYTES)
    )
    needed_bytes = HOST_BYTES + app_bytes + HOST_COPIES * concurrency * limit_bytes
    assert needed_bytes < number_in_bicep("gatewayMemoryMB") * MIB
    # The template computes the same for other catalogues and other sizes of instances.
    template = (BICEP.parent / "modules" / "gateway.bicep").read_text(encoding="utf-8")
    base = re.search(
        rf"\(instanceMemoryMB - (\d+)\) \* {MIB} / \({HOST_COPIES} \* bodyLimitBytes\)", template
    )
    assert base is not None
    assert (HOST_BYTES + app_bytes) / MIB < int(base[1]) < 1.1 * (HOST_BYTES + app_bytes) / MIB
    assert concurrency <= (2048 - int(base[1])) * MIB // (HOST_COPIES * limit_bytes)


def test_larger_inputs_have_the_margin_of_streams() -> None:
    below, above = (
        replace(Catalogue.load(DEFAULT_PATH).model("noop"), max_input_bytes=size_bytes)
        for size_bytes in (STREAMED_BYTES, STREAMED_BYTES + 1)
    )
    assert above.host_limit_bytes - above.max_input_bytes == 2 * MIB
    assert below.host_limit_bytes - below.max_body_bytes == 256 * 1024


def test_host_gets_the_catalogues_body_limit() -> None:
    limit_bytes = Catalogue.load(DEFAULT_PATH).body_limit_bytes
    root = BICEP.parents[1]
    generated = json.loads((root / "infra" / "catalogue.json").read_text(encoding="utf-8"))
    assert generated["bodyLimitBytes"] == limit_bytes
    template = (root / "infra" / "modules" / "gateway.bicep").read_text(encoding="utf-8")
    assert "  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(bodyLimitBytes)\n" in template
    example = json.loads((root / "local.settings.example.json").read_text(encoding="utf-8"))
    assert example["Values"]["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"] == str(limit_bytes)


LARGEST_BYTES = Catalogue.load(DEFAULT_PATH).model("noop").max_input_bytes
WORST: dict[str, Callable[[], bytes]] = {
    "one wide character": lambda: json.dumps(
        {"input": {"text": "a" * (LARGEST_BYTES - 4) + "\U0001f600"}}, ensure_ascii=False
    ).encode(),
    "base64": lambda: json.dumps(
        {"input": {"base64": base64.b64encode(bytes(LARGEST_BYTES)).decode()}}
    ).encode(),
    "lists": lambda: b'{"input":{"json":[' + b"[0]," * 100_000 + b"0]}}",
    "members": lambda: b'{"input":{"json":[' + b'{"":0},' * 70_000 + b"0]}}",
    "backslashes": lambda: b'{"input":{"text":"' + b'\\",' * (LARGEST_BYTES // 3) + b'"}}',
}


@pytest.mark.parametrize("kind", WORST)
def test_parsing_needs_less_than_assumed(kind: str) -> None:
    content, model = WORST[kind](), Catalogue.load(DEFAULT_PATH).model("noop")

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    json_type, body = "application/json", IncomingBody(pieces())
    parts = RequestParts(json_type, json_type, "", body, {}, "", "", is_pinned=False)
    tracemalloc.start()
    try:
        asyncio.run(parse_submission(parts, model, LargeBodies(len(content))))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PARSE_BYTES
