"""The input of a job that names an upload: looked at where it lies."""

from typing import Final

from contract.catalogue import Model
from contract.media import essence
from contract.messages import PayloadRef
from gateway import problems
from gateway.api.submitting.checks import check_coding, check_upload_size, checked_media_type
from gateway.problems import Problem
from gateway.services import Services
from gateway.storage import uploads

_HEAD_BYTES: Final = 64 * 1024


async def uploaded(
    services: Services, tenant: str, model: Model, upload_id: str, announced: str | None
) -> PayloadRef:
    """The tenant's upload as a job's input, once it is there and fits the model; else Problem.

    Only its beginning is read. The reference holds the ETag: should somebody write to the slot
    again, the worker refuses what it then finds.
    """
    expires_at = uploads.expiry(upload_id)
    blob = uploads.blob_of(upload_id, tenant)
    known = expires_at is not None and services.clock() < expires_at
    found = await services.blobs.look(blob, _HEAD_BYTES) if known else None
    if found is None:
        raise Problem(
            problems.INVALID_INPUT,
            f"there is no upload {upload_id[:100]!r}: nothing was sent to its URL, or it is over",
        )
    check_coding(found.content_encoding)
    check_upload_size(model, found.size_bytes)
    media_type = checked_media_type(
        model,
        announced or essence(found.media_type) or None,
        found.head,
        is_whole=len(found.head) == found.size_bytes,
    )
    return PayloadRef(media_type, blob, found.size_bytes, None, found.etag)
