"""Find the operation of a request, and the permission that the operation requires."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from emulator.blobs.authorization import RequiredPermission
from emulator.blobs.errors import (
    ErrorCode,
    StorageError,
    invalid_header,
    invalid_query,
    not_implemented,
)
from emulator.blobs.headers import UNSUPPORTED_HEADERS
from emulator.blobs.operations import blobs, containers, leases, service, uploads
from emulator.blobs.operations.context import BlobResponse, OperationContext
from emulator.blobs.request import BlobRequest

Handler = Callable[[OperationContext], Awaitable[BlobResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the REST API, and the permission that the operation requires."""

    handler: Handler
    permission: RequiredPermission


def _operation(handler: Handler, account: str, resource: str, service: str = "") -> Operation:
    return Operation(handler, RequiredPermission(account, resource, service))


_GET_CONTAINER = _operation(containers.get_container, "r", "c")
_GET_CONTAINER_ACL = _operation(containers.get_container_acl, "r", "c")
_GET_BLOB_METADATA = _operation(blobs.get_blob_metadata, "r", "o", "r")
_GET_ACCOUNT = _operation(containers.get_account, "rlwcd", "s")

# (level, method, comp) -> operation. The permissions are those of "Create an account SAS" and
# "Create a service SAS". A service SAS never permits reading a container's access policies.
_OPERATIONS = {
    ("account", "GET", "list"): _operation(containers.list_containers, "l", "s"),
    ("account", "GET", "properties"): _GET_ACCOUNT,
    ("account", "HEAD", "properties"): _GET_ACCOUNT,
    ("service", "GET", "properties"): _operation(service.get_service_properties, "r", "s"),
    ("service", "PUT", "properties"): _operation(service.set_service_properties, "w", "s"),
    ("container", "PUT", ""): _operation(containers.create_container, "cw", "c"),
    ("container", "GET", ""): _GET_CONTAINER,
    ("container", "HEAD", ""): _GET_CONTAINER,
    ("container", "GET", "metadata"): _GET_CONTAINER,
    ("container", "HEAD", "metadata"): _GET_CONTAINER,
    ("container", "PUT", "metadata"): _operation(containers.set_container_metadata, "w", "c"),
    ("container", "GET", "acl"): _GET_CONTAINER_ACL,
    ("container", "HEAD", "acl"): _GET_CONTAINER_ACL,
    ("container", "PUT", "lease"): _operation(leases.lease_container, "wd", "c"),
    ("container", "DELETE", ""): _operation(containers.delete_container, "d", "c"),
    ("container", "GET", "list"): _operation(containers.list_blobs, "l", "c", "l"),
    ("blob", "PUT", ""): _operation(uploads.put_blob, "cw", "o", "cw"),
    ("blob", "PUT", "block"): _operation(uploads.put_block, "w", "o", "w"),
    ("blob", "PUT", "blocklist"): _operation(uploads.put_block_list, "w", "o", "w"),
    ("blob", "GET", "blocklist"): _operation(uploads.get_block_list, "r", "o", "r"),
    ("blob", "GET", ""): _operation(blobs.get_blob, "r", "o", "r"),
    ("blob", "HEAD", ""): _operation(blobs.get_blob_properties, "r", "o", "r"),
    ("blob", "GET", "metadata"): _GET_BLOB_METADATA,
    ("blob", "HEAD", "metadata"): _GET_BLOB_METADATA,
    ("blob", "PUT", "metadata"): _operation(blobs.set_blob_metadata, "w", "o", "w"),
    ("blob", "PUT", "properties"): _operation(blobs.set_blob_properties, "w", "o", "w"),
    ("blob", "PUT", "appendblock"): _operation(uploads.append_block, "aw", "o", "aw"),
    ("blob", "GET", "tags"): _operation(blobs.get_blob_tags, "t", "o", "t"),
    ("blob", "PUT", "tags"): _operation(blobs.set_blob_tags, "t", "o", "t"),
    ("blob", "PUT", "snapshot"): _operation(blobs.create_snapshot, "cw", "o", "cw"),
    ("blob", "PUT", "lease"): _operation(leases.lease_blob, "wd", "o", "wd"),
    ("blob", "DELETE", ""): _operation(blobs.delete_blob, "d", "o", "d"),
}
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})
# The values of `comp` that Azure supports and this service refuses as not implemented.
_UNSUPPORTED_COMPS = frozenset(
    {
        "acl",
        "batch",
        "blobs",
        "copy",
        "expiry",
        "immutabilitypolicies",
        "incrementalcopy",
        "legalhold",
        "page",
        "pagelist",
        "properties",
        "query",
        "rename",
        "seal",
        "stats",
        "tier",
        "undelete",
        "userdelegationkey",
    }
)
_COPY_COMPS = frozenset({"", "block", "appendblock"})
_SNAPSHOT_COMPS = frozenset({"", "blocklist", "metadata", "tags"})
_OLDEST_VERSION = "2015-02-21"


def find_operation(request: BlobRequest) -> Operation:
    """Return a request's operation. Raises StorageError if it does not exist or is missing here."""
    if request.method not in _METHODS:
        raise StorageError(ErrorCode.UNSUPPORTED_HTTP_VERB)
    key = (_level(request), request.method, request.comp)
    operation = _OPERATIONS.get(key)
    if operation is not None:
        return operation
    comp = request.comp
    if comp in _UNSUPPORTED_COMPS:
        raise not_implemented(f"{request.method} with comp={comp}")
    if comp and not any(known == comp for _, _, known in _OPERATIONS):
        raise invalid_query("comp", comp)
    raise StorageError(ErrorCode.UNSUPPORTED_HTTP_VERB)


def check_supported(request: BlobRequest) -> None:
    """Raise StorageError if a request has an unsupported header or query parameter."""
    version = request.headers.get("x-ms-version", _OLDEST_VERSION)
    if len(version) != len(_OLDEST_VERSION) or version < _OLDEST_VERSION:
        raise invalid_header("x-ms-version", version)
    for name in UNSUPPORTED_HEADERS & request.headers.keys():
        raise not_implemented(name)
    if "x-ms-copy-source" in request.headers and not (
        request.method == "PUT" and request.comp in _COPY_COMPS
    ):
        raise not_implemented("x-ms-copy-source")
    if request.parameter("versionid"):
        raise not_implemented("versionid")
    if request.parameter("snapshot") is not None and not _reads_snapshots(request):
        raise not_implemented(f"{request.method} with the parameter snapshot")


def _reads_snapshots(request: BlobRequest) -> bool:
    """Return whether `snapshot` is supported with this HTTP method and this `comp`."""
    if request.method == "DELETE":
        return not request.comp
    return request.method in {"GET", "HEAD"} and request.comp in _SNAPSHOT_COMPS


def _level(request: BlobRequest) -> str:
    restype = request.restype
    if request.blob:
        return "blob"
    if request.container:
        if restype == "container":
            return "container"
        # Without restype the path is that of a blob in the root container, which is not supported.
        raise StorageError(ErrorCode.RESOURCE_NOT_FOUND)
    if request.comp != "properties" or restype == "account":
        return "account"
    if restype != "service":
        raise invalid_query(
            "restype", restype, "The parameter restype must be 'service' or 'account'."
        )
    return "service"
