"""Put a text result into the job, so that a caller needs no further request."""

from typing import Final

from contract.errors import PayloadCorrupt
from contract.messages import Fields, InlineBytes, PayloadRef, payload_from_json, payload_to_json
from gateway.errors import MissingPayload, Unavailable
from gateway.jobs.model import Record, is_text
from gateway.storage.payloads import PayloadStore

TEXT_LIMIT_BYTES: Final = 64 * 1024
"""A text result with more bytes than this is not part of the job."""


async def add_text_result(payloads: PayloadStore, record: Record) -> Record:
    """Return the record with its text result, if a blob contains a text of up to 64 KiB.

    The record is unchanged if the blob was deleted or the storage does not respond. The job's link
    to its result then reports the problem.
    """
    result = record["result"]
    if not result or "blob" not in result or not is_text(result["media_type"]):
        return record
    ref = payload_from_json(Fields(result))
    if not isinstance(ref, PayloadRef) or ref.size_bytes > TEXT_LIMIT_BYTES:
        return record
    try:
        data = await payloads.get(ref)
    except (MissingPayload, PayloadCorrupt, Unavailable):
        return record
    return {**record, "result": payload_to_json(InlineBytes(ref.media_type, data))}
