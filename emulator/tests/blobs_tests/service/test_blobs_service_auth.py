"""Test at which times signatures are valid, and which parts of a request the signatures cover."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from azure.storage.blob import generate_account_sas, generate_blob_sas
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobs_tests.service.blob_service import START, RunningBlobService
from emulator.blobs.__main__ import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY
from emulator.blobs.authorization import AccountKey, build_string_to_sign
from emulator.blobs.request import parse_request
from emulator.blobs.times import format_http_date, to_microseconds
from emulator.program import SettingError

MINUTE = timedelta(minutes=1)
PATH = "/devstoreaccount1/box/blob"


async def read(service: RunningBlobService, query: str, **headers: str) -> tuple[int, str]:
    answer = await service.send("GET", PATH, query, headers)
    return answer.status, answer.code


async def test_sas_is_valid_from_start_until_expiry(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    sas = generate_blob_sas(
        DEVELOPMENT_ACCOUNT,
        "box",
        "blob",
        account_key=DEVELOPMENT_KEY,
        permission="r",
        start=START,
        expiry=START + MINUTE,
    )
    service.clock.now = START - timedelta(seconds=1)
    assert await read(service, sas) == (403, "AuthenticationFailed")
    service.clock.now = START
    assert (await read(service, sas))[0] == 200
    service.clock.now = START + MINUTE - timedelta(seconds=1)
    assert (await read(service, sas))[0] == 200
    service.clock.now = START + MINUTE
    assert await read(service, sas) == (403, "AuthenticationFailed")


async def test_snapshot_sas_gives_access_to_nothing_else(
    service: RunningBlobService,
) -> None:
    times = []
    for content in (b"secret", b"shared"):
        await service.put("box/blob", content)
        taken = await service.request("PUT", "box/blob", query="comp=snapshot")
        times.append(taken.headers["x-ms-snapshot"])
    secret, shared = times
    sas = generate_blob_sas(
        DEVELOPMENT_ACCOUNT,
        "box",
        "blob",
        snapshot=shared,
        account_key=DEVELOPMENT_KEY,
        permission="r",
        expiry=START + MINUTE,
    )
    permitted = await service.send("GET", PATH, f"snapshot={shared}&{sas}", {})
    assert (permitted.status, permitted.body) == (200, b"shared")
    for query in (sas, f"snapshot={secret}&{sas}"):
        assert await read(service, query) == (403, "AuthenticationFailed")
    # The SAS is checked for the same value of a repeated parameter that the operation uses.
    repeated = f"snapshot={secret}&SNAPSHOT={shared}&{sas}"
    assert await read(service, repeated) == (403, "AuthenticationFailed")


@pytest.mark.parametrize(
    ("resources", "permission", "services", "code"),
    [
        ("o", "r", "b", ""),
        ("o", "r", "q", "AuthorizationServiceMismatch"),
        ("s", "r", "b", "AuthorizationResourceTypeMismatch"),
        ("o", "w", "b", "AuthorizationPermissionMismatch"),
    ],
)
async def test_error_code_names_what_the_sas_lacks(
    service: RunningBlobService, resources: str, permission: str, services: str, code: str
) -> None:
    await service.put("box/blob", b"content")
    sas = generate_account_sas(
        DEVELOPMENT_ACCOUNT,
        DEVELOPMENT_KEY,
        resources,
        permission,
        START + MINUTE,
        services=services,
    )
    assert (await read(service, sas))[1] == code


@pytest.mark.parametrize("space", ["%20", "+"])
async def test_sas_may_set_a_header_with_a_space(service: RunningBlobService, space: str) -> None:
    """The client for .NET writes the space as a plus sign, and a plus sign as `%2B`."""
    await service.put("box/blob", b"content")
    sas = generate_blob_sas(
        DEVELOPMENT_ACCOUNT,
        "box",
        "blob",
        account_key=DEVELOPMENT_KEY,
        permission="r",
        expiry=START + MINUTE,
        content_disposition="attachment; filename=a+b",
    )
    written = sas.replace("attachment%3B%20", f"attachment%3B{space}")
    assert f"%3B{space}filename" in written
    answer = await service.send("GET", PATH, written, {})
    assert (answer.status, answer.headers["Content-Disposition"]) == (
        200,
        "attachment; filename=a+b",
    )


async def test_sas_of_version_2015_04_05_is_accepted(service: RunningBlobService) -> None:
    """In version 2015-04-05, the signature covers neither the resource type nor the scope."""
    await service.put("box/blob", b"content")
    expiry = "2026-03-01T13:00Z"
    fields = ["r", "", expiry, "/blob/devstoreaccount1/box/blob", "", "", "", "2015-04-05"]
    text = "\n".join([*fields, "", "", "", "", ""])
    signature = base64.b64encode(base64.b64decode(AccountKey(DEVELOPMENT_KEY).sign(text))).decode()
    signature = signature.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    sas = f"sv=2015-04-05&sr=b&sp=r&se={expiry}&sig={signature}"
    assert (await read(service, sas))[0] == 200


def signed(
    service: RunningBlobService, method: str, headers: dict[str, str], query: str = ""
) -> str:
    scope = {
        "method": method,
        "raw_path": PATH.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def nothing() -> dict[str, object]:
        return {}

    request = parse_request(scope, nothing)
    text = build_string_to_sign(request, DEVELOPMENT_ACCOUNT, lambda name: name)
    return f"SharedKey {DEVELOPMENT_ACCOUNT}:{service.app.authenticator.key.sign(text)}"


@pytest.mark.parametrize(("minutes", "status"), [(-16, 403), (-14, 200), (14, 200), (16, 403)])
async def test_shared_key_over_15_minutes_off_is_refused(
    service: RunningBlobService, minutes: int, status: int
) -> None:
    await service.put("box/blob", b"content")
    date = format_http_date(to_microseconds(START + minutes * MINUTE))
    headers = {"x-ms-date": date, "x-ms-version": "2026-10-06", "content-length": "0"}
    headers["authorization"] = signed(service, "GET", headers)
    assert (await read(service, "", **headers))[0] == status


async def test_request_changed_after_signing_is_refused(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    headers = {"x-ms-date": format_http_date(to_microseconds(START)), "content-length": "0"}
    headers["authorization"] = signed(service, "GET", headers, "comp=metadata")
    assert (await read(service, "comp=metadata", **headers))[0] == 200
    assert await read(service, "", **headers) == (403, "AuthenticationFailed")
    changed = headers | {"x-ms-range": "bytes=0-1"}
    assert await read(service, "comp=metadata", **changed) == (403, "AuthenticationFailed")
    answer = await service.send("HEAD", PATH, "comp=metadata", headers)
    assert answer.code == "AuthenticationFailed"


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        ("", 400, "InvalidAuthenticationInfo"),
        ("SharedKey", 400, "InvalidAuthenticationInfo"),
        ("SharedKey nobody:AAAA", 403, "AuthenticationFailed"),
        ("SharedKey devstoreaccount1:AAAA", 403, "AuthenticationFailed"),
        ("SharedKey devstoreaccount1:ä", 403, "AuthenticationFailed"),
        ("Bearer token", 400, "InvalidAuthenticationInfo"),
    ],
)
async def test_invalid_authorization_header_is_refused(
    service: RunningBlobService, authorization: str, status: int, code: str
) -> None:
    headers = {
        "authorization": authorization,
        "x-ms-date": format_http_date(to_microseconds(START)),
    }
    assert await read(service, "", **headers) == (status, code)


async def test_anonymous_request_gets_a_challenge(
    service: RunningBlobService,
) -> None:
    answer = await service.send("GET", PATH, "", {})
    assert (answer.status, answer.code) == (401, "NoAuthenticationInformation")
    assert "WWW-Authenticate" in answer.headers


@given(st.text(max_size=40), st.sampled_from(["sv", "sr", "sp", "st", "se", "sip", "spr", "sig"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_sas_with_a_random_field_is_refused(
    service: RunningBlobService, value: str, name: str
) -> None:
    fields = {"sv": "2026-10-06", "sr": "b", "sp": "r", "se": "2030-01-01", "sig": "AAAA"}
    fields[name] = "".join(f"%{byte:02x}" for byte in value.encode())
    query = "&".join(f"{key}={text}" for key, text in fields.items())
    assert (await read(service, query))[0] == 403


def test_repr_hides_the_account_key() -> None:
    assert DEVELOPMENT_KEY not in repr(AccountKey(DEVELOPMENT_KEY))


@pytest.mark.parametrize("text", ["", "not base64!", "ä"])
def test_invalid_account_key_raises_setting_error(text: str) -> None:
    with pytest.raises(SettingError):
        AccountKey(text)
