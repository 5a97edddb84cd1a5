"""Test requests that SDKs do not send. For most of them, the emulator returns Azure's error."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobs_tests.service.blob_service import RunningBlobService
from emulator.blobs.cors import CorsRule
from emulator.blobs.service_properties import build_cors

BLOCK = {"x-ms-blob-type": "BlockBlob"}
HUGE = {"content-length": "9" * 9}
CONTAINER = "restype=container"
SERVICE_PROPERTIES = "comp=properties&restype=service"
PREFLIGHT = {"origin": "http://page", "access-control-request-method": "GET"}
RANGE_MD5 = {"x-ms-range-get-content-md5": "true"}
SNAPSHOT = "2026-03-01T12:00:00.0000000Z"
ONLY = {"x-ms-delete-snapshots": "only"}
LEASE = {"x-ms-lease-id": "00000000-0000-0000-0000-000000000001"}


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "code"),
    [
        (("PUT", "box/b", ""), {}, 400, "MissingRequiredHeader"),
        (("PUT", "box/b", ""), {"x-ms-blob-type": "Blob"}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", ""), {"x-ms-blob-type": "PageBlob"}, 501, "NotImplemented"),
        (("PUT", "box/b", ""), BLOCK | {"content-length": "x"}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", ""), BLOCK | {"content-length": "9" * 12}, 413, "RequestBodyTooLarge"),
        (("PUT", "box/b", ""), BLOCK | {"content-md5": "short"}, 400, "InvalidMd5"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-blob-content-md5": "eA=="}, 400, "InvalidMd5"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-meta-": "v"}, 400, "EmptyMetadataKey"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-meta-a": "ä"}, 400, "InvalidMetadata"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-meta-a": "v" * 9000}, 400, "MetadataTooLarge"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-tags": "a"}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-if-tags": "a='b'"}, 501, "NotImplemented"),
        (("GET", "", "comp=blobs&where=a"), {}, 501, "NotImplemented"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-access-tier": "Cool"}, 501, "NotImplemented"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-copy-source": "http://x"}, 501, "NotImplemented"),
        (("PUT", "box/b", ""), BLOCK | {"x-ms-version": "yesterday"}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", ""), BLOCK | {"if-modified-since": "soon"}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", "comp=block"), {}, 400, "MissingRequiredQueryParameter"),
        (("PUT", "box/b", "comp=block&blockid=%21"), {}, 400, "InvalidBlockId"),
        (("PUT", "box/b", "comp=block&blockid=" + "AAAA" * 22), {}, 400, "InvalidBlockId"),
        (("PUT", "box/b", "comp=block&blockid=AAAA"), {}, 400, "InvalidHeaderValue"),
        (("PUT", "box/b", "comp=blocklist"), {}, 400, "InvalidXmlDocument"),
        (
            ("PUT", "box/b", "comp=blocklist"),
            HUGE,
            413,
            "RequestBodyTooLarge",
        ),
        (("PUT", "box/b", "comp=lease"), {}, 400, "MissingRequiredHeader"),
        (("PUT", "box/b", "comp=nonsense"), {}, 400, "InvalidQueryParameterValue"),
        (("PUT", "box", ""), {}, 404, "ResourceNotFound"),
        (("PUT", "box", "restype=container"), {}, 409, "ContainerAlreadyExists"),
        (("PUT", "fox", "restype=container"), {"x-ms-blob-public-access": "blob"}, 409, None),
        (("POST", "box/b", ""), {}, 405, "UnsupportedHttpVerb"),
        (("BREW", "box/b", ""), {}, 405, "UnsupportedHttpVerb"),
        (("GET", "box/b", ""), {}, 404, "BlobNotFound"),
        (("GET", "box/b", "snapshot=2026"), {}, 400, "InvalidQueryParameterValue"),
        (("GET", "box/b", "snapshot=current"), {}, 400, "InvalidQueryParameterValue"),
        (("GET", "box/b", "snapshot="), {}, 400, "InvalidQueryParameterValue"),
        (("GET", "box/kept", f"snapshot={SNAPSHOT}"), {}, 404, "BlobNotFound"),
        (("PUT", "box/kept", f"comp=tags&snapshot={SNAPSHOT}"), {}, 501, "NotImplemented"),
        (("PUT", "box/kept", f"snapshot={SNAPSHOT}"), BLOCK, 501, "NotImplemented"),
        (("DELETE", "box/kept", f"snapshot={SNAPSHOT}"), ONLY, 400, "InvalidHeaderValue"),
        (("GET", "box/kept", ""), {"x-ms-lease-id": "x"}, 400, "InvalidHeaderValue"),
        (("GET", "box/kept", ""), LEASE, 412, "LeaseNotPresentWithBlobOperation"),
        (("PUT", "box/b", ""), BLOCK | LEASE, 412, "LeaseNotPresentWithBlobOperation"),
        (("GET", "box", CONTAINER), LEASE, 412, "LeaseNotPresentWithContainerOperation"),
        (("GET", "box/kept", ""), {"if-none-match": "*"}, 400, "UnsatisfiableCondition"),
        (("GET", "box/kept", ""), {"x-ms-range": "bytes=7-"}, 416, "InvalidRange"),
        (("GET", "box/kept", ""), {"x-ms-range": "seven"}, 400, "InvalidHeaderValue"),
        (
            ("GET", "box/kept", ""),
            RANGE_MD5,
            400,
            "InvalidHeaderValue",
        ),
        (("GET", "box/kept", "comp=blocklist&blocklisttype=x"), {}, 400, None),
        (("GET", "box", "restype=container&comp=list&maxresults=0"), {}, 400, None),
        (("GET", "box", "restype=container&comp=list&maxresults=-1"), {}, 400, None),
        (("GET", "box", "restype=container&comp=list&marker=%21"), {}, 400, None),
        (("GET", "box", "restype=container&comp=list&include=nonsense"), {}, 400, None),
        (("DELETE", "box/kept", ""), {"x-ms-delete-snapshots": "some"}, 400, "InvalidHeaderValue"),
        (("GET", "", "comp=properties"), {}, 400, "InvalidQueryParameterValue"),
        (("GET", "", "comp=stats&restype=service"), {}, 501, "NotImplemented"),
        (("PUT", "", SERVICE_PROPERTIES), {}, 400, "InvalidXmlDocument"),
        (("PUT", "", SERVICE_PROPERTIES), HUGE, 413, "RequestBodyTooLarge"),
        (("OPTIONS", "box/b", ""), {}, 400, "InvalidHeaderValue"),
        (("OPTIONS", "box/b", ""), PREFLIGHT, 403, "CorsPreflightFailure"),
    ],
)
async def test_refusal_has_azures_error_code(
    service: RunningBlobService,
    request_line: tuple[str, str, str],
    headers: dict[str, str],
    status: int,
    code: str | None,
) -> None:
    method, path, query = request_line
    await service.put("box/kept", b"content")
    answer = await service.request(method, path, query=query, headers=headers)
    assert (answer.status, code or answer.code) == (status, answer.code)
    body = ElementTree.fromstring(answer.body)
    assert body.findtext("Code") == answer.code
    assert answer.headers["x-ms-request-id"] in (body.findtext("Message") or "")


async def test_upload_without_content_length_is_refused(service: RunningBlobService) -> None:
    scope_headers = BLOCK | {"content-length": ""}
    answer = await service.request("PUT", "box/b", headers=scope_headers)
    assert answer.status == 400


async def test_head_error_has_its_code_in_a_header(
    service: RunningBlobService,
) -> None:
    answer = await service.request("HEAD", "box/missing")
    assert (answer.status, answer.code, answer.body) == (404, "BlobNotFound", b"")


async def test_response_repeats_request_id_and_api_version(
    service: RunningBlobService,
) -> None:
    headers = {"x-ms-client-request-id": "mine", "x-ms-version": "2026-10-06"}
    answer = await service.request("GET", "box", query="restype=container", headers=headers)
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert answer.headers["x-ms-version"] == "2026-10-06"


async def test_missing_content_file_raises_file_not_found(
    service: RunningBlobService, caplog: pytest.LogCaptureFixture
) -> None:
    await service.put("box/blob", b"x" * 100_000)
    for path in service.content_files:
        path.unlink()
    with pytest.raises(FileNotFoundError):
        await service.get("box/blob")
    assert (await service.put("box/blob", b"again")).status == 201
    assert (await service.get("box/blob")).body == b"again"


TOKENS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
HEADER_NAMES = st.sampled_from(
    [
        "access-control-request-headers",
        "access-control-request-method",
        "authorization",
        "content-length",
        "content-md5",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "origin",
        "range",
        "x-ms-blob-type",
        "x-ms-date",
        "x-ms-delete-snapshots",
        "x-ms-copy-source",
        "x-ms-lease-action",
        "x-ms-lease-duration",
        "x-ms-lease-id",
        "x-ms-proposed-lease-id",
        "x-ms-meta-key",
        "x-ms-range",
        "x-ms-range-get-content-md5",
        "x-ms-version",
    ]
)
QUERY = st.lists(
    st.tuples(
        st.sampled_from(
            ["comp", "restype", "blockid", "marker", "prefix", "maxresults", "include", "sv", "sp"]
        ),
        TOKENS
        | st.sampled_from(
            [
                "list",
                "container",
                "block",
                "lease",
                "snapshot",
                "tags",
                "blocklist",
                "metadata",
                "properties",
                "service",
            ]
        ),
    ),
    max_size=4,
)


@given(
    st.tuples(
        st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"]),
        st.sampled_from(["", "box", "box/kept", "box/new"]) | TOKENS,
        QUERY,
    ),
    st.dictionaries(HEADER_NAMES, TOKENS, max_size=4),
    st.binary(max_size=50),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_random_request_gets_a_response(  # noqa: PLR0917 - hypothesis names them
    service: RunningBlobService,
    request_line: tuple[str, str, list[tuple[str, str]]],
    headers: dict[str, str],
    body: bytes,
    is_signed: bool,
    has_rules: bool,
) -> None:
    method, path, query = request_line
    rules = [CorsRule(("*",), ("GET", "PUT"), ("*",), ("*",))] if has_rules else []
    await service.store.set_service_properties(build_cors(rules))
    text = "&".join(f"{name}={value.replace('&', '')}" for name, value in query)
    if is_signed:
        answer = await service.request(method, path, body, query=text, headers=headers)
    else:
        raw = f"/devstoreaccount1/{path}"
        answer = await service.send(method, raw, text, headers, [body])
        is_preflight = method == "OPTIONS" and has_rules
        assert answer.status >= 400 or is_preflight
    # If the body is shorter than announced, the client has disconnected.
    if answer.status == 500:
        assert int(headers["content-length"]) != len(body)
