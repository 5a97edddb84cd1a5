"""Operations on the Blob service: its properties, and preflight requests of browsers."""

from __future__ import annotations

from emulator.blobs.cors import answer_preflight
from emulator.blobs.index import queries
from emulator.blobs.operations.context import BlobResponse, OperationContext, build_xml_response
from emulator.blobs.request import BlobRequest
from emulator.blobs.service_properties import build_properties, parse_properties
from emulator.blobs.store import AccountStore

_DOCUMENT_BYTES_MAX = 64 * 1024


async def get_service_properties(context: OperationContext) -> BlobResponse:
    """Get Blob Service Properties: return all, with defaults for those never set."""
    return build_xml_response(build_properties(context.store.read(queries.find_service_properties)))


async def set_service_properties(context: OperationContext) -> BlobResponse:
    """Set Blob Service Properties: change the properties that the request's body contains."""
    properties = parse_properties(await context.request.body.read(_DOCUMENT_BYTES_MAX))
    await context.store.set_service_properties(properties)
    return BlobResponse(202, {"Content-Length": "0"})


def preflight(request: BlobRequest, store: AccountStore) -> BlobResponse:
    """Preflight Blob Request: tell a browser whether a page may send a request."""
    return BlobResponse(
        200, {"Content-Length": "0", **answer_preflight(store.cors_rules, request.headers)}
    )
