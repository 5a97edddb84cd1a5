"""Models with named inputs and results, and their payloads."""

import base64
import hashlib
from typing import Any

from contract.names import result_blob
from tests.unit.gateway.conftest import RunningGateway

COMPARED = """
[compared]
implementation = "worker.models.noop"
description = "Compares."
media_types = ["text/plain", "application/json"]
max_input_bytes = 200_000
inputs.other = {media_types = ["image/png", "text/plain"], max_pixels = 4096, description = "B."}
inputs.note = {media_types = ["application/json"], max_input_bytes = 40, optional = true}
"""
"""A model with a required and an optional named input."""

CUTTER = """
[cutter]
implementation = "worker.models.noop"
description = "Cuts."
media_types = ["application/octet-stream"]
results.mask = {media_type = "image/png", description = "A mask."}
results.boxes = {media_type = "application/json", optional = true}
"""
"""A model with a required and an optional named result."""

_HEAD = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR"
PNG = _HEAD + (64).to_bytes(4) * 2 + b"\0" * 100
LARGE_PNG = _HEAD + (65).to_bytes(4) * 2 + b"\0" * 100


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stored(gateway: RunningGateway, job_id: str, data: bytes, media_type: str) -> dict[str, Any]:
    """Store a large result as a worker does, and return the reference to the result."""
    blob = result_blob(job_id)
    gateway.payloads.blobs[blob] = (media_type, data)
    return {
        "media_type": media_type,
        "blob": blob,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
