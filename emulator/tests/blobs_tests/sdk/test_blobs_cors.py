"""Test CORS: rules that the SDK sets, preflight requests, and requests with the header Origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    BlobAnalyticsLogging,
    CorsRule,
    Metrics,
    RetentionPolicy,
    StaticWebsite,
)

from blobs_tests.sdk.blob_servers import Server, signature
from blobs_tests.sdk.both_clients import code_of

PAGE = "http://www.contoso.com"
OTHER_PAGE = "http://www.fabrikam.com"


def rule(origins: str, methods: str, **options: Any) -> CorsRule:
    return CorsRule(origins.split(), methods.split(), **options)


@pytest.fixture(autouse=True)
async def _no_rules_at_the_end(service: Any) -> AsyncIterator[None]:
    yield
    await service.set_service_properties(cors=[])


async def read_rules(service: Any) -> list[tuple[str, str, str, str, int]]:
    properties = await service.get_service_properties()
    return [
        (
            each.allowed_origins,
            each.allowed_methods,
            each.allowed_headers,
            each.exposed_headers,
            each.max_age_in_seconds,
        )
        for each in properties["cors"]
    ]


def preflight(
    server: Server, origin: str, method: str, asked: str | None = None, path: str = "/box/none"
) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": method}
    if asked is not None:
        headers["access-control-request-headers"] = asked
    return httpx.options(server.url + path, headers=headers)


def send(method: str, url: str, content: bytes = b"", **headers: str) -> httpx.Response:
    """Send a request and return the response. A PUT request creates a block blob.

    In the names of `headers`, underscores are replaced by dashes.
    """
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "PUT":
        fields["x-ms-blob-type"] = "BlockBlob"
    return httpx.request(method, url, content=content or None, headers=fields)


def cors_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


async def test_rules_are_read_as_they_were_set(
    service: Any,
) -> None:
    everything = {"allowed_headers": ["*"], "exposed_headers": ["x-ms-*", "etag"]}
    rules = [
        rule(f"{PAGE} {OTHER_PAGE}", "GET PUT", max_age_in_seconds=5, **everything),
        rule("*", "DELETE HEAD MERGE OPTIONS POST"),
    ]
    await service.set_service_properties(cors=rules)
    assert await read_rules(service) == [
        (f"{PAGE},{OTHER_PAGE}", "GET,PUT", "*", "x-ms-*,etag", 5),
        ("*", "DELETE,HEAD,MERGE,OPTIONS,POST", "", "", 0),
    ]
    await service.set_service_properties(cors=[])
    assert await read_rules(service) == []


async def test_omitted_properties_keep_their_values(service: Any) -> None:
    logging = BlobAnalyticsLogging(read=True, retention_policy=RetentionPolicy(True, 3))
    hours = Metrics(enabled=True, include_apis=True, retention_policy=RetentionPolicy(True, 7))
    await service.set_service_properties(
        analytics_logging=logging, hour_metrics=hours, cors=[rule(PAGE, "GET")]
    )
    await service.set_service_properties(delete_retention_policy=RetentionPolicy(True, 2))
    found = await service.get_service_properties()
    assert (found["analytics_logging"].read, found["analytics_logging"].write) == (True, False)
    assert found["analytics_logging"].retention_policy.days == 3
    assert (found["hour_metrics"].include_apis, found["minute_metrics"].enabled) == (True, False)
    assert found["delete_retention_policy"].days == 2
    assert [each.allowed_origins for each in found["cors"]] == [PAGE]
    await service.set_service_properties(
        analytics_logging=BlobAnalyticsLogging(),
        hour_metrics=Metrics(),
        delete_retention_policy=RetentionPolicy(),
    )


async def test_new_account_has_optional_features_disabled(
    service: Any,
) -> None:
    found = await service.get_service_properties()
    assert not found["analytics_logging"].read
    assert not found["minute_metrics"].enabled
    assert not found["delete_retention_policy"].enabled
    assert not found["static_website"].enabled
    assert found["cors"] == []


@pytest.mark.azurite_differs("Azurite keeps the setting, but serves no website")
async def test_static_website_is_not_implemented(service: Any) -> None:
    await service.set_service_properties(static_website=StaticWebsite(enabled=False))
    with pytest.raises(HttpResponseError) as refused:
        await service.set_service_properties(static_website=StaticWebsite(enabled=True))
    assert refused.value.status_code == 501
    assert "StaticWebsite" in str(refused.value.message)


MANY_HEADERS = [f"x-ms-meta-{number}" for number in range(64)]
PREFIXES = ["x-ms-meta-target*", "x-ms-meta-other*"]


@pytest.mark.parametrize(
    "rules",
    [
        [rule(PAGE, "GET")] * 5,
        # Origins and methods of the tests of Microsoft's .NET client, which run against Azure.
        [rule(" ".join(f"www.xyz{number}.com" for number in range(64)), "GET")],
        [rule("www.xyz.com", "PUT TRACE CONNECT DELETE GET HEAD OPTIONS POST MERGE")],
        [
            rule(
                PAGE,
                "GET",
                allowed_headers=PREFIXES + MANY_HEADERS,
                exposed_headers=PREFIXES + MANY_HEADERS,
            )
        ],
        [rule("https://*.contoso.com", "GET")],
        [rule("a" * 256, "GET", allowed_headers=["b" * 256], exposed_headers=["c" * 256])],
        [rule(PAGE, "GET", max_age_in_seconds=2**31 - 1)],
    ],
)
async def test_rules_up_to_azures_limits_are_accepted(service: Any, rules: list[CorsRule]) -> None:
    await service.set_service_properties(cors=rules)
    assert len(await read_rules(service)) == len(rules)


@pytest.mark.azurite_differs("Azurite checks no limits")
@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([rule(PAGE, "GET")] * 6, "InvalidXmlDocument"),
        ([rule(" ".join(f"www.xyz{n}.com" for n in range(65)), "GET")], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", allowed_headers=[*MANY_HEADERS, "x"])], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", exposed_headers=[*MANY_HEADERS, "x"])], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", allowed_headers=[*PREFIXES, "x*"])], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", exposed_headers=[*PREFIXES, "x*"])], "InvalidXmlNodeValue"),
        ([rule("a" * 257, "GET")], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", allowed_headers=["a" * 257])], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", exposed_headers=["a" * 257])], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", exposed_headers=["x-ms-*-meta"])], "InvalidXmlNodeValue"),
        ([rule("https://www.*.com", "GET")], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET BREW")], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", max_age_in_seconds=-1)], "InvalidXmlNodeValue"),
        ([rule(PAGE, "GET", allowed_headers=["a" * 250] * 3)] * 3, "InvalidXmlNodeValue"),
    ],
)
async def test_rules_over_a_limit_are_refused_and_not_stored(
    service: Any, rules: list[CorsRule], code: str
) -> None:
    await service.set_service_properties(cors=[rule(OTHER_PAGE, "GET")])
    with pytest.raises(HttpResponseError) as refused:
        await service.set_service_properties(cors=rules)
    assert (refused.value.status_code, code_of(refused.value)) == (400, code)
    assert [each[0] for each in await read_rules(service)] == [OTHER_PAGE]


async def test_preflight_needs_no_credentials(server: Server, service: Any) -> None:
    rules = [rule(PAGE, "PUT", allowed_headers=["x-ms-*", "content-type"], max_age_in_seconds=200)]
    await service.set_service_properties(cors=rules)
    for path in ("/box/none", "/", ""):
        answer = preflight(server, PAGE, "PUT", "Content-Type, x-ms-blob-type", path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert cors_headers(answer.headers) == {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": "PUT",
            "access-control-allow-headers": "Content-Type, x-ms-blob-type",
            "access-control-allow-credentials": "true",
            "access-control-max-age": "200",
        }


async def test_preflight_without_matching_rule_is_refused(server: Server, service: Any) -> None:
    def refused(*request: str) -> bool:
        answer = preflight(server, *request)
        assert answer.status_code in {200, 403}
        assert (answer.status_code == 403) == (not cors_headers(answer.headers))
        return bool(answer.headers.get("x-ms-error-code") == "CorsPreflightFailure")

    assert refused(PAGE, "PUT")
    await service.set_service_properties(cors=[rule(PAGE, "PUT", allowed_headers=["x-ms-meta-*"])])
    assert refused(OTHER_PAGE, "PUT")
    assert refused("null", "PUT")
    assert refused(PAGE + ".evil.example", "PUT")
    assert refused(PAGE, "GET")
    assert refused(PAGE, "PUT", "x-ms-meta-a,content-type")
    assert not refused(PAGE, "PUT")
    assert not refused(PAGE, "PUT", "X-MS-Meta-A,x-ms-meta-")
    await service.set_service_properties(cors=[])
    assert refused(PAGE, "PUT")


@pytest.mark.azurite_differs("Azurite ignores upper and lower case")
async def test_origins_are_case_sensitive(server: Server, service: Any) -> None:
    await service.set_service_properties(cors=[rule("http://Page", "GET")])
    assert preflight(server, "http://Page", "GET").status_code == 200
    assert preflight(server, "http://page", "GET").status_code == 403


@pytest.mark.azurite_differs("Azurite goes on to the next rule if the headers do not match")
async def test_only_the_first_matching_rule_applies(server: Server, service: Any) -> None:
    # The example in the section "CORS rules evaluation" of the documentation.
    few = {
        "allowed_headers": ["x-ms-blob-content-type", "x-ms-blob-content-disposition"],
        "exposed_headers": ["x-ms-*"],
        "max_age_in_seconds": 5,
    }
    rules = [
        rule(PAGE, "PUT HEAD", **few),
        rule("*", "PUT GET", **few),
        rule(PAGE, "GET", **{**few, "allowed_headers": ["x-ms-client-request-id"]}),
    ]
    await service.set_service_properties(cors=rules)
    assert preflight(server, PAGE, "PUT", "x-ms-blob-content-type").status_code == 200
    assert preflight(server, PAGE, "GET", "x-ms-blob-content-type").status_code == 200
    assert preflight(server, PAGE, "GET", "x-ms-client-request-id").status_code == 403


@pytest.mark.azurite_differs("Azurite knows no wildcard within an origin")
async def test_wildcard_matches_subdomains(server: Server, service: Any) -> None:
    await service.set_service_properties(cors=[rule("https://*.contoso.com", "GET")])
    allowed = ["https://www.contoso.com", "https://a.b.contoso.com"]
    refused = [
        "https://contoso.com",
        "https://.contoso.com",
        "http://www.contoso.com",
        "https://wwwcontoso.com",
        "https://www.contoso.com.evil.example",
    ]
    found = {origin: preflight(server, origin, "GET").status_code for origin in allowed + refused}
    assert found == dict.fromkeys(allowed, 200) | dict.fromkeys(refused, 403)


@pytest.mark.parametrize("missing", ["origin", "access-control-request-method"])
async def test_preflight_without_required_header_is_refused(
    server: Server, service: Any, missing: str
) -> None:
    await service.set_service_properties(cors=[rule("*", "GET")])
    headers = {"origin": PAGE, "access-control-request-method": "GET"}
    del headers[missing]
    async with httpx.AsyncClient(headers=headers) as page:
        answer = await page.options(f"{server.url}/box/none")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "InvalidHeaderValue")


async def test_allowed_page_can_write_and_read_a_blob(
    server: Server, service: Any, container: Any
) -> None:
    exposed = ["x-ms-meta-*", "etag", "content-length"]
    rules = [rule(PAGE, "PUT GET HEAD", exposed_headers=exposed)]
    await service.set_service_properties(cors=rules)
    url = f"{container.url}/b?{signature()}"
    put = send("PUT", url, b"data", origin=PAGE, x_ms_meta_author="me")
    assert put.status_code == 201
    assert put.headers["access-control-allow-origin"] == PAGE
    assert put.headers["access-control-allow-credentials"] == "true"
    for method in ("GET", "HEAD"):
        answer = send(method, url, origin=PAGE)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"
        names = answer.headers["access-control-expose-headers"].lower().split(",")
        assert set(names) == {"x-ms-meta-author", "etag", "content-length"}


async def test_no_headers_without_matching_rule(
    server: Server, service: Any, container: Any
) -> None:
    await service.set_service_properties(cors=[rule(PAGE, "GET")])
    await container.upload_blob("b", b"data")
    answer = send("GET", f"{container.url}/b?{signature()}", origin=OTHER_PAGE)
    assert (answer.status_code, answer.content) == (200, b"data")
    assert cors_headers(answer.headers) == {"vary": "Origin"}


@pytest.mark.azurite_differs("Azurite also adds Vary to responses that no cache keeps")
async def test_cross_origin_put_gets_no_vary_header(
    server: Server, service: Any, container: Any
) -> None:
    url = f"{container.url}/b?{signature()}"
    for methods, names in (
        ("GET", set()),
        ("PUT", {"access-control-allow-origin", "access-control-allow-credentials"}),
    ):
        await service.set_service_properties(cors=[rule(PAGE, methods)])
        put = send("PUT", url, b"data", origin=PAGE)
        assert (put.status_code, set(cors_headers(put.headers))) == (201, names)


async def test_rule_for_all_origins_gives_wildcard_without_vary(
    server: Server, service: Any, container: Any
) -> None:
    await service.set_service_properties(cors=[rule("*", "GET", exposed_headers=["etag"])])
    await container.upload_blob("b", b"data")
    answer = send("GET", f"{container.url}/b?{signature()}", origin=PAGE)
    assert cors_headers(answer.headers) == {
        "access-control-allow-origin": "*",
        "access-control-expose-headers": answer.headers["access-control-expose-headers"],
    }
    assert answer.headers["access-control-expose-headers"].lower() == "etag"


async def test_error_response_has_cors_headers(
    server: Server, service: Any, container: Any
) -> None:
    await service.set_service_properties(cors=[rule(PAGE, "GET", exposed_headers=["x-ms-*"])])
    missing = f"{container.url}/missing"
    for url, status in ((f"{missing}?{signature()}", 404), (f"{missing}?sig=x&sv=2021-12-02", 403)):
        answer = send("GET", url, origin=PAGE)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(",")
        assert "x-ms-error-code" in exposed


@pytest.mark.azurite_differs("Azurite adds nothing to a response without the header Origin")
async def test_request_without_origin_gets_cors_headers(
    server: Server, service: Any, container: Any
) -> None:
    # The table in the section "Understanding how the Vary header is set" of the documentation.
    await container.upload_blob("b", b"data")
    url = f"{container.url}/b?{signature()}"
    assert cors_headers(send("GET", url).headers) == {}
    await service.set_service_properties(cors=[rule(PAGE, "GET HEAD", exposed_headers=["etag"])])
    for method in ("GET", "HEAD"):
        assert cors_headers(send(method, url).headers) == {"vary": "Origin"}
    await service.set_service_properties(cors=[rule("*", "GET HEAD", exposed_headers=["etag"])])
    for method in ("GET", "HEAD"):
        assert cors_headers(send(method, url).headers) == {
            "access-control-allow-origin": "*",
            "access-control-expose-headers": "etag",
        }
    put = send("PUT", url)
    assert (put.status_code, cors_headers(put.headers)) == (201, {})


def test_rules_need_credentials(server: Server, service: Any) -> None:
    url = f"{server.url}/?restype=service&comp=properties"
    assert send("GET", url).status_code in {401, 403}
    assert send("PUT", url, b"<StorageServiceProperties/>").status_code in {401, 403}
