"""Check that one instance of the gateway in Azure has enough memory, even in the worst case.

The memory of an instance is a parameter of the Function App on Flex Consumption.
"""

import base64
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.catalogue import DEFAULT_PATH, Catalogue
from gateway.http.bodies import SMALL_BODY_BYTES
from gateway.settings import BODY_MEMORY_BYTES
from gateway.submission.parse import _from_envelope

BICEP = Path(__file__).parents[2] / "infra" / "main.bicep"
MIB = 1024**2
HOST_BYTES = 450 * MIB
"""The memory of Azure's Functions host, which runs beside the process of the app."""

IDLE_BYTES = 150 * MIB
"""The memory of the app's process without requests. A measurement gave 100 MiB."""

PARSE_BYTES = 250 * MIB
"""The memory that the parser of large bodies needs. It parses one body at a time."""

COPIES = 3
"""How many copies of a body are in memory at the same time.

One copy is in the message from the host, one in the gateway, and one in the upload to storage.
"""


def number_in_bicep(name: str) -> int:
    found = re.search(rf"\bparam {name} int = (\d+)", BICEP.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def test_the_configured_memory_of_a_gateway_instance_exceeds_the_calculated_maximum() -> None:
    small_bytes = number_in_bicep("gatewayConcurrency") * SMALL_BODY_BYTES
    bodies_bytes = COPIES * (BODY_MEMORY_BYTES + small_bytes)
    needed_bytes = HOST_BYTES + IDLE_BYTES + PARSE_BYTES + bodies_bytes
    assert needed_bytes < number_in_bicep("gatewayMemoryMB") * MIB


TEN_MEGABYTES = 10_000_000
WORST: dict[str, Callable[[], bytes]] = {
    "one wide character": lambda: json.dumps(
        {"input": {"text": "a" * TEN_MEGABYTES + "\U0001f600"}}, ensure_ascii=False
    ).encode(),
    "base64": lambda: json.dumps(
        {"input": {"base64": base64.b64encode(bytes(TEN_MEGABYTES)).decode()}}
    ).encode(),
    "lists": lambda: b'{"input":{"json":[' + b"[0]," * 100_000 + b"0]}}",
    "members": lambda: b'{"input":{"json":[' + b'{"":0},' * 70_000 + b"0]}}",
    "backslashes": lambda: b'{"input":{"text":"' + b'\\",' * 3_000_000 + b'"}}',
}


@pytest.mark.parametrize("kind", WORST)
def test_parsing_one_large_body_needs_less_memory_than_the_memory_calculation_assumes(
    kind: str,
) -> None:
    body, model = WORST[kind](), Catalogue.load(DEFAULT_PATH).model("noop")
    tracemalloc.start()
    try:
        _from_envelope(model, {}, body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PARSE_BYTES
