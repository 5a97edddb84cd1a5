"""Test the properties of the Blob service, such as CORS rules: their XML, and their storage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobs_tests.service.blob_service import ManualClock, RunningBlobService, open_service
from emulator.blobs.cors import CorsRule, answer_preflight, build_cors_headers
from emulator.blobs.errors import StorageError
from emulator.blobs.service_properties import (
    build_cors,
    build_properties,
    parse_properties,
    read_cors_rules,
)
from emulator.blobs.store import AccountStore
from emulator.program import StartError
from file_sizes import no_space

PROPERTIES = "restype=service&comp=properties"
RULE = (
    "<CorsRule><AllowedOrigins>{origin}</AllowedOrigins><AllowedMethods>GET</AllowedMethods>"
    "<AllowedHeaders/><ExposedHeaders/><MaxAgeInSeconds>1</MaxAgeInSeconds></CorsRule>"
)
RETENTION = "<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"


def document(*elements: str) -> bytes:
    inner = "".join(elements)
    return f"<StorageServiceProperties>{inner}</StorageServiceProperties>".encode()


def cors(*origins: str) -> bytes:
    rules = "".join(RULE.format(origin=origin) for origin in origins)
    return document(f"<Cors>{rules}</Cors>")


async def set_properties(service: RunningBlobService, body: bytes) -> tuple[int, str]:
    answer = await service.request("PUT", "", body, query=PROPERTIES)
    return answer.status, answer.code


async def read_origins(service: RunningBlobService) -> list[str | None]:
    answer = await service.request("GET", "", query=PROPERTIES)
    assert answer.status == 200
    return [each.text for each in ElementTree.fromstring(answer.body).iter("AllowedOrigins")]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "InvalidXmlDocument"),
        (b"<Other/>", "InvalidXmlDocument"),
        (b"<StorageServiceProperties>", "InvalidXmlDocument"),
        (b"<!DOCTYPE a []><StorageServiceProperties/>", "InvalidXmlDocument"),
        (b"<a>" * 9 + b"</a>" * 9, "InvalidXmlDocument"),
        (document("<Metrics/>"), "InvalidXmlDocument"),
        (document("<Cors/>", "<Cors/>"), "InvalidXmlDocument"),
        (document("<Cors><Rule/></Cors>"), "InvalidXmlDocument"),
        (document("<Cors><CorsRule/></Cors>"), "MissingRequiredXmlNode"),
        (cors("http://a").replace(b"<ExposedHeaders/>", b""), "MissingRequiredXmlNode"),
        (cors("http://a").replace(b">1<", b">soon<"), "InvalidXmlNodeValue"),
        (cors("http://a").replace(b">1<", b">2147483648<"), "InvalidXmlNodeValue"),
        (cors("http://a").replace(b">GET<", b"><"), "InvalidXmlNodeValue"),
        (cors("http://a").replace(b">GET<", b">GET,<"), "InvalidXmlNodeValue"),
        (cors("http://a b"), "InvalidXmlNodeValue"),
        (cors(""), "InvalidXmlNodeValue"),
        (cors(",".join(["http://a"] * 65)), "InvalidXmlNodeValue"),
        (cors(*["http://a"] * 6), "InvalidXmlDocument"),
        (document("<DefaultServiceVersion>new</DefaultServiceVersion>"), "InvalidXmlNodeValue"),
        (document("<Logging/>"), "MissingRequiredXmlNode"),
        (
            document(
                f"<HourMetrics><Version>1.0</Version><Enabled>yes</Enabled>{RETENTION}</HourMetrics>"
            ),
            "InvalidXmlNodeValue",
        ),
        (
            document("<DeleteRetentionPolicy><Enabled>true</Enabled></DeleteRetentionPolicy>"),
            "MissingRequiredXmlNode",
        ),
        (
            document(
                "<DeleteRetentionPolicy><Enabled>true</Enabled><Days>366</Days>"
                "</DeleteRetentionPolicy>"
            ),
            "InvalidXmlNodeValue",
        ),
        (document("<StaticWebsite><Enabled>true</Enabled></StaticWebsite>"), "NotImplemented"),
        (
            document("<Cors/>", "<StaticWebsite><Enabled><Enabled/></Enabled></StaticWebsite>"),
            "InvalidXmlDocument",
        ),
    ],
)
async def test_invalid_document_changes_no_property(
    service: RunningBlobService, body: bytes, code: str
) -> None:
    assert await set_properties(service, cors("http://kept")) == (202, "")
    status, found = await set_properties(service, body)
    assert (status, found) == (501 if code == "NotImplemented" else 400, code)
    assert await read_origins(service) == ["http://kept"]


async def test_properties_are_read_as_they_were_set(
    service: RunningBlobService,
) -> None:
    retained = "<RetentionPolicy><Enabled>true</Enabled><Days>7</Days></RetentionPolicy>"
    switches = "<Delete>true</Delete><Read>false</Read><Write>true</Write>"
    allowed = (
        "<AllowedOrigins>http://a?b=1&amp;c</AllowedOrigins><AllowedMethods>GET</AllowedMethods>"
    )
    headers = "<AllowedHeaders>x-ms-*</AllowedHeaders><ExposedHeaders></ExposedHeaders>"
    age = "<MaxAgeInSeconds>5</MaxAgeInSeconds>"
    given_elements = (
        f"<Logging><Version>1.0</Version>{switches}{retained}</Logging>",
        f"<MinuteMetrics><Version>1.0</Version><Enabled>false</Enabled>{RETENTION}</MinuteMetrics>",
        "<DefaultServiceVersion>2021-12-02</DefaultServiceVersion>",
        "<DeleteRetentionPolicy><Enabled>true</Enabled><Days>9</Days></DeleteRetentionPolicy>",
        "<StaticWebsite><Enabled>false</Enabled></StaticWebsite>",
        f"<Cors><CorsRule>{allowed}{headers}{age}</CorsRule></Cors>",
    )
    assert await set_properties(service, document(*given_elements)) == (202, "")
    answer = await service.request("GET", "", query=PROPERTIES)
    for element in given_elements:
        assert element in answer.body.decode()
    assert b"<HourMetrics>" in answer.body


async def test_cors_rules_survive_a_restart_until_replaced(
    tmp_path: Path,
) -> None:
    async with open_service(tmp_path) as service:
        await set_properties(service, cors("http://one", "http://two"))
    async with open_service(tmp_path) as service:
        assert await read_origins(service) == ["http://one", "http://two"]
        assert [rule.allowed_origins for rule in service.store.cors_rules] == [
            ("http://one",),
            ("http://two",),
        ]
        await set_properties(service, document("<Cors/>"))
        assert await read_origins(service) == []
        assert service.store.cors_rules == ()


async def test_active_cors_rules_equal_the_stored_ones(
    service: RunningBlobService,
) -> None:
    bodies = [cors(f"http://page-{number}") for number in range(50)]
    answers = await asyncio.gather(*(set_properties(service, body) for body in bodies))
    assert answers == [(202, "")] * 50
    stored = await read_origins(service)
    assert [",".join(rule.allowed_origins) for rule in service.store.cors_rules] == stored


async def test_start_options_replace_only_the_cors_rules(
    tmp_path: Path,
) -> None:
    logged = document(
        "<Logging><Version>1.0</Version><Delete>true</Delete><Read>true</Read><Write>true</Write>"
        f"{RETENTION}</Logging>",
    )
    async with open_service(tmp_path) as service:
        await set_properties(service, cors("http://old"))
        await set_properties(service, logged)
    async with open_service(tmp_path, [CorsRule(("http://new",), ("GET",))]) as service:
        assert await read_origins(service) == ["http://new"]
        answer = await service.request("GET", "", query=PROPERTIES)
        assert b"<Write>true</Write>" in answer.body


async def test_full_disk_permits_a_start_with_stored_cors_rules(
    tmp_path: Path,
) -> None:
    rules = [CorsRule(("http://page",), ("GET",))]
    async with open_service(tmp_path, rules):
        pass
    store = AccountStore(tmp_path, ManualClock())
    store.open()
    try:
        with no_space(0):
            store.replace_cors_rules(rules)
            with pytest.raises(StartError, match="CORS rules"):
                store.replace_cors_rules([CorsRule(("http://other",), ("GET",))])
        assert store.cors_rules == tuple(rules)
    finally:
        store.start()
        await store.close()


@given(
    st.binary()
    | st.text("<>/&;!?StorageServicePropertiesCors '\"").map(str.encode)
    | st.text().map(lambda text: document(f"<Cors>{text}</Cors>"))
)
def test_any_bytes_are_parsed_or_raise_storage_error(
    body: bytes,
) -> None:
    try:
        found = parse_properties(body)
    except StorageError:
        return
    # What was accepted can be stored, sent and read again.
    assert parse_properties(build_properties(found).encode()).items() >= found.items()
    read_cors_rules(found)


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",*"))
ITEMS = st.lists(WORDS | st.just("*") | WORDS.map(lambda word: word + "*"), max_size=4).map(tuple)
RULES = st.lists(
    st.builds(
        CorsRule,
        ITEMS,
        st.lists(st.sampled_from(["GET", "PUT", "HEAD", "BREW"]), max_size=3).map(tuple),
        ITEMS,
        ITEMS,
        st.integers(-1, 10),
    ),
    max_size=6,
)


@given(RULES)
def test_accepted_cors_rules_are_stored_unchanged(
    rules: list[CorsRule],
) -> None:
    try:
        stored = build_cors(rules)
    except StorageError:
        return
    assert read_cors_rules(stored) == tuple(rules)
    assert (
        parse_properties(build_properties(stored).encode())["Cors"] == stored["Cors"] or not rules
    )


ORIGINS = st.sampled_from(["http://a", "http://b", "http://x.a", "null"])
METHODS = st.sampled_from(["GET", "PUT", "HEAD", "DELETE"])
VALID_RULES = st.lists(
    st.builds(
        CorsRule,
        st.lists(st.sampled_from(["http://a", "http://b", "*", "http://*.a"]), min_size=1).map(
            tuple
        ),
        st.lists(METHODS, min_size=1).map(tuple),
        st.lists(st.sampled_from(["*", "x-*", "etag"])).map(tuple),
        st.lists(st.sampled_from(["*", "x-*", "etag"])).map(tuple),
    ),
    max_size=5,
)


@given(VALID_RULES, ORIGINS, METHODS)
def test_cors_headers_permit_exactly_what_rules_allow(
    rules: list[CorsRule], origin: str, method: str
) -> None:
    headers = build_cors_headers(rules, method, origin, ["etag", "x-ms-version"])
    is_allowed = any(
        method in rule.allowed_methods
        and (
            {"*", origin} & set(rule.allowed_origins)
            or (origin == "http://x.a" and "http://*.a" in rule.allowed_origins)
        )
        for rule in rules
    )
    assert (headers.get("Access-Control-Allow-Origin") in {"*", origin}) == is_allowed
    # A browser refuses a wildcard together with credentials.
    if headers.get("Access-Control-Allow-Origin") == "*":
        assert "Access-Control-Allow-Credentials" not in headers
    asked = {"origin": origin, "access-control-request-method": method}
    if is_allowed:
        assert answer_preflight(rules, asked)["Access-Control-Allow-Origin"] == origin
    else:
        with pytest.raises(StorageError):
            answer_preflight(rules, asked)
