"""Errors of the Blob service, with Azure's error codes and messages.

BlobsError
├── StorageError      the request is refused; the client receives Azure's code and HTTP status
└── ClientGoneError   the client disconnected or stopped sending the request body

`emulator.program` defines the errors that stop the program at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class ErrorCode(Enum):
    """The error codes of Azure that this service returns.

    Each value is (code, HTTP status, message). Source: "Common REST API error codes" and "Azure
    Blob Storage error codes" of the REST reference. The code `NotImplemented` is an addition of
    this service.
    """

    APPEND_POSITION_CONDITION_NOT_MET = (
        "AppendPositionConditionNotMet",
        412,
        "The append position condition specified was not met.",
    )
    AUTHENTICATION_FAILED = (
        "AuthenticationFailed",
        403,
        (
            "Server failed to authenticate the request. Make sure the value of the Authorization "
            "header is formed correctly including the signature."
        ),
    )
    AUTHORIZATION_PERMISSION_MISMATCH = (
        "AuthorizationPermissionMismatch",
        403,
        "This request is not authorized to perform this operation using this permission.",
    )
    AUTHORIZATION_PROTOCOL_MISMATCH = (
        "AuthorizationProtocolMismatch",
        403,
        "This request is not authorized to perform this operation using this protocol.",
    )
    AUTHORIZATION_RESOURCE_TYPE_MISMATCH = (
        "AuthorizationResourceTypeMismatch",
        403,
        "This request is not authorized to perform this operation using this resource type.",
    )
    AUTHORIZATION_SERVICE_MISMATCH = (
        "AuthorizationServiceMismatch",
        403,
        "This request is not authorized to perform this operation using this service.",
    )
    AUTHORIZATION_SOURCE_IP_MISMATCH = (
        "AuthorizationSourceIPMismatch",
        403,
        "This request is not authorized to perform this operation using this source IP.",
    )
    BLOB_ALREADY_EXISTS = ("BlobAlreadyExists", 409, "The specified blob already exists.")
    BLOB_NOT_FOUND = ("BlobNotFound", 404, "The specified blob does not exist.")
    BLOCK_COUNT_EXCEEDS_LIMIT = (
        "BlockCountExceedsLimit",
        409,
        "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks.",
    )
    BLOCK_LIST_TOO_LONG = (
        "BlockListTooLong",
        400,
        "The block list may not contain more than 50,000 blocks.",
    )
    COPY_SOURCE_NOT_VERIFIED = (
        "CannotVerifyCopySource",
        404,
        "The source of the copy does not exist or cannot be read.",
    )
    COMMITTED_BLOCK_COUNT_EXCEEDS_LIMIT = (
        "BlockCountExceedsLimit",
        409,
        "The committed block count cannot exceed the maximum limit of 50,000 blocks.",
    )
    CONDITION_NOT_MET = (
        "ConditionNotMet",
        412,
        "The condition specified using HTTP conditional header(s) is not met.",
    )
    CONTAINER_ALREADY_EXISTS = (
        "ContainerAlreadyExists",
        409,
        "The specified container already exists.",
    )
    CONTAINER_NOT_FOUND = ("ContainerNotFound", 404, "The specified container does not exist.")
    CORS_PREFLIGHT_FAILURE = (
        "CorsPreflightFailure",
        403,
        "CORS not enabled or no matching rule found for this request.",
    )
    DUPLICATE_TAG_NAMES = (
        "DuplicateTagNames",
        400,
        "The tags specified contain duplicate names.",
    )
    EMPTY_METADATA_KEY = (
        "EmptyMetadataKey",
        400,
        "The key for one of the metadata key-value pairs is empty.",
    )
    EMPTY_TAG_NAME = (
        "EmptyTagName",
        400,
        "The name of one of the tag key-value pairs is empty.",
    )
    SERVER_BUSY = (
        "ServerBusy",
        503,
        "The server is currently unable to receive requests. Please retry your request.",
    )
    INTERNAL_ERROR = (
        "InternalError",
        500,
        "The server encountered an internal error. Please retry the request.",
    )
    INVALID_AUTHENTICATION_INFO = (
        "InvalidAuthenticationInfo",
        400,
        (
            "Authentication information is not given in the correct format. Check the value of "
            "Authorization header."
        ),
    )
    INVALID_BLOB_OR_BLOCK = (
        "InvalidBlobOrBlock",
        400,
        "The specified blob or block content is invalid.",
    )
    INVALID_BLOB_TYPE = (
        "InvalidBlobType",
        409,
        "The blob type is invalid for this operation.",
    )
    INVALID_BLOCK_ID = (
        "InvalidBlockId",
        400,
        "The specified block ID is invalid. The block ID must be Base64-encoded.",
    )
    INVALID_BLOCK_LIST = ("InvalidBlockList", 400, "The specified block list is invalid.")
    INVALID_HEADER_VALUE = (
        "InvalidHeaderValue",
        400,
        "The value for one of the HTTP headers is not in the correct format.",
    )
    INVALID_MD5 = (
        "InvalidMd5",
        400,
        (
            "The MD5 value specified in the request is invalid. The MD5 value must be 128 bits and "
            "Base64-encoded."
        ),
    )
    INVALID_METADATA = (
        "InvalidMetadata",
        400,
        "The metadata specified is invalid. It has characters that are not permitted.",
    )
    INVALID_QUERY_PARAMETER_VALUE = (
        "InvalidQueryParameterValue",
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    )
    INVALID_RANGE = (
        "InvalidRange",
        416,
        "The range specified is invalid for the current size of the resource.",
    )
    INVALID_RESOURCE_NAME = (
        "InvalidResourceName",
        400,
        "The specified resource name contains invalid characters.",
    )
    INVALID_TAGS = (
        "InvalidTag",
        400,
        "The tags specified are invalid. It contains characters that are not permitted.",
    )
    INVALID_URI = (
        "InvalidUri",
        400,
        "The requested URI does not represent any resource on the server.",
    )
    INVALID_XML_DOCUMENT = ("InvalidXmlDocument", 400, "XML specified is not syntactically valid.")
    INVALID_XML_NODE_VALUE = (
        "InvalidXmlNodeValue",
        400,
        (
            "The value provided for one of the XML nodes in the request body was not in the "
            "correct format."
        ),
    )
    LEASE_ALREADY_PRESENT = ("LeaseAlreadyPresent", 409, "There is already a lease present.")
    LEASE_ID_MISMATCH = (
        "LeaseIdMismatchWithBlobOperation",
        412,
        "The lease ID specified did not match the lease ID for the blob.",
    )
    LEASE_ID_MISMATCH_ON_CONTAINER = (
        "LeaseIdMismatchWithContainerOperation",
        412,
        "The lease ID specified did not match the lease ID for the container.",
    )
    LEASE_ID_MISMATCH_WITH_LEASE_OPERATION = (
        "LeaseIdMismatchWithLeaseOperation",
        409,
        (
            "The lease ID specified did not match the lease ID for the resource with the specified "
            "lease operation."
        ),
    )
    LEASE_ID_MISSING = (
        "LeaseIdMissing",
        412,
        "There is currently a lease on the blob and no lease ID was specified in the request.",
    )
    LEASE_ID_MISSING_ON_CONTAINER = (
        "LeaseIdMissing",
        412,
        "There is currently a lease on the container and no lease ID was specified in the request.",
    )
    LEASE_BREAKING_ON_ACQUIRE = (
        "LeaseIsBreakingAndCannotBeAcquired",
        409,
        (
            "The lease ID matched, but the lease is currently in breaking state and cannot be "
            "acquired until it is broken."
        ),
    )
    LEASE_BREAKING_ON_CHANGE = (
        "LeaseIsBreakingAndCannotBeChanged",
        409,
        (
            "The lease ID matched, but the lease is currently in breaking state and cannot be "
            "changed."
        ),
    )
    LEASE_BROKEN_ON_RENEW = (
        "LeaseIsBrokenAndCannotBeRenewed",
        409,
        "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
    )
    LEASE_LOST = (
        "LeaseLost",
        412,
        "A lease ID was specified, but the lease for the resource has expired.",
    )
    LEASE_NOT_PRESENT_WITH_LEASE_OPERATION = (
        "LeaseNotPresentWithLeaseOperation",
        409,
        "There is currently no lease on the resource.",
    )
    LEASE_NOT_PRESENT = (
        "LeaseNotPresentWithBlobOperation",
        412,
        "There is currently no lease on the blob.",
    )
    LEASE_NOT_PRESENT_ON_CONTAINER = (
        "LeaseNotPresentWithContainerOperation",
        412,
        "There is currently no lease on the container.",
    )
    MAX_BLOB_SIZE_CONDITION_NOT_MET = (
        "MaxBlobSizeConditionNotMet",
        412,
        "The max blob size condition specified was not met.",
    )
    MD5_MISMATCH = (
        "Md5Mismatch",
        400,
        (
            "The MD5 value specified in the request did not match with the MD5 value calculated by "
            "the server."
        ),
    )
    METADATA_TOO_LARGE = (
        "MetadataTooLarge",
        400,
        "The metadata specified exceeds the maximum permissible limit (8KB).",
    )
    MISSING_CONTENT_LENGTH = (
        "MissingContentLengthHeader",
        411,
        "The Content-Length header was not specified.",
    )
    MISSING_CORS_HEADER = ("InvalidHeaderValue", 400, "A required CORS header is not present.")
    MISSING_REQUIRED_HEADER = (
        "MissingRequiredHeader",
        400,
        "An HTTP header that's mandatory for this request is not specified.",
    )
    MISSING_REQUIRED_QUERY_PARAMETER = (
        "MissingRequiredQueryParameter",
        400,
        "A query parameter that's mandatory for this request is not specified.",
    )
    MISSING_REQUIRED_XML_NODE = (
        "MissingRequiredXmlNode",
        400,
        "A required XML node was not specified in the request body.",
    )
    MULTIPLE_CONDITION_HEADERS = (
        "MultipleConditionHeadersNotSupported",
        400,
        "Multiple condition headers are not supported.",
    )
    NO_AUTHENTICATION_INFORMATION = (
        "NoAuthenticationInformation",
        401,
        (
            "Server failed to authenticate the request. Please refer to the information in the "
            "www-authenticate header."
        ),
    )
    NOT_IMPLEMENTED = (
        "NotImplemented",
        501,
        "This storage does not implement the requested operation.",
    )
    NOT_MODIFIED = (
        "ConditionNotMet",
        304,
        "The condition specified using HTTP conditional header(s) is not met.",
    )
    OUT_OF_RANGE_INPUT = ("OutOfRangeInput", 400, "One of the request inputs is out of range.")
    OUT_OF_RANGE_QUERY_PARAMETER = (
        "OutOfRangeQueryParameterValue",
        400,
        (
            "One of the query parameters specified in the request URI is outside the permissible "
            "range."
        ),
    )
    PUBLIC_ACCESS_NOT_PERMITTED = (
        "PublicAccessNotPermitted",
        409,
        "Public access is not permitted on this storage account.",
    )
    REQUEST_BODY_TOO_LARGE = (
        "RequestBodyTooLarge",
        413,
        "The request body is too large and exceeds the maximum permissible limit.",
    )
    RESOURCE_NOT_FOUND = ("ResourceNotFound", 404, "The specified resource does not exist.")
    SNAPSHOTS_PRESENT = (
        "SnapshotsPresent",
        409,
        "This operation is not permitted while the blob has snapshots.",
    )
    SOURCE_CONDITION_NOT_MET = (
        "SourceConditionNotMet",
        412,
        "The source condition specified using HTTP conditional header(s) is not met.",
    )
    TAGS_TOO_LARGE = (
        "TagsTooLarge",
        400,
        "The tags specified exceed the maximum permissible limit.",
    )
    UNAUTHORIZED_BLOB_OVERWRITE = (
        "UnauthorizedBlobOverwrite",
        403,
        "This request is not authorized to perform blob overwrites.",
    )
    UNSATISFIABLE_CONDITION = (
        "UnsatisfiableCondition",
        400,
        "The request includes an unsatisfiable condition for this operation.",
    )
    UNSUPPORTED_HTTP_VERB = (
        "UnsupportedHttpVerb",
        405,
        "The resource doesn't support specified Http Verb.",
    )


class BlobsError(Exception):
    """The base class of all errors of this package."""


class StorageError(BlobsError):
    """The service refuses a request. The client receives an error response with this error's code.

    `detail` contains additional elements for the XML body, for example `HeaderName`. `headers`
    contains additional response headers.
    """

    def __init__(
        self,
        code: ErrorCode,
        *,
        headers: Mapping[str, str] | None = None,
        **detail: str,
    ) -> None:
        self.code, self.status, self.message = code.value
        self.headers = dict(headers or {})
        self.detail = detail
        super().__init__(f"{self.code}: {self.message}")


class ClientGoneError(BlobsError):
    """The client disconnected or stopped sending the request body."""


def invalid_header(name: str, value: str = "") -> StorageError:
    """Return the error for a malformed request header."""
    return StorageError(ErrorCode.INVALID_HEADER_VALUE, HeaderName=name, HeaderValue=value)


def copy_source_not_verified(cause: StorageError) -> StorageError:
    """Return the error CannotVerifyCopySource with the status and details of `cause`."""
    error = StorageError(ErrorCode.COPY_SOURCE_NOT_VERIFIED)
    error.detail = cause.detail
    error.status, error.message = cause.status, cause.message
    return error


def invalid_query(name: str, value: str, reason: str = "") -> StorageError:
    """Return the error for a malformed query parameter."""
    return StorageError(
        ErrorCode.INVALID_QUERY_PARAMETER_VALUE,
        QueryParameterName=name,
        QueryParameterValue=value,
        Reason=reason,
    )


def invalid_xml_value(name: str, value: str, reason: str) -> StorageError:
    """Return the error for a malformed value in the XML body of a request."""
    return StorageError(
        ErrorCode.INVALID_XML_NODE_VALUE, XmlNodeName=name, XmlNodeValue=value, Reason=reason
    )


def not_implemented(what: str) -> StorageError:
    """Return the error for a feature of Azure that this service does not implement."""
    return StorageError(ErrorCode.NOT_IMPLEMENTED, Feature=what)
