"""Test that large and hostile bodies delay no other request and occupy no memory for long.

While a request waits for its job, the gateway keeps no copy of the body.
"""

import asyncio
import base64
import json
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contract.catalogue import DEFAULT_PATH
from contract.messages import InlineBytes, PayloadRef
from gateway import json_text
from gateway.bodies import (
    MAX_BODY_BYTES,
    SMALL_BODY_BYTES,
    STREAMED_BYTES,
    IncomingBody,
    LargeBodies,
)
from gateway.json_text import MAX_JSON_VALUES, encode_json, parse_json
from gateway.problems import HttpProblem
from tests.unit.gateway.api_keys import SETTING, bearer
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.web_calls import Answer, call, scope_of

JSON = "application/json"
JOBS, INFER = "/v1/models/noop/jobs", "/v2/models/noop/infer"
CLASSIFIER_JOBS = "/v1/models/classifier/jobs"
TEN_MEGABYTES = 10_000_000
STALL_SECONDS = 1.0
"""The longest allowed processor time, in seconds, between two iterations of the event loop.

Before the gateway limited large bodies, 1 to 20 s were measured.
"""


def repeat(unit: bytes, size_bytes: int = TEN_MEGABYTES) -> bytes:
    return unit * (size_bytes // len(unit))


def in_envelope(value: bytes) -> bytes:
    return b'{"input": {"json": ' + value + b"}}"


HOSTILE = {
    "brackets": b"[" + repeat(b"[],") + b"[]]",
    "numbers": b"[" + repeat(b"0,") + b"0]",
    "strings": b"[" + repeat(b'"",') + b'""]',
    "strings without commas": repeat(b'""'),
    "nesting": repeat(b"["),
    "members": b"{" + repeat(b'"a":{},') + b'"a":1}',
    "long numbers": b"[" + repeat(b"9" * 4299 + b",") + b"0]",
    "backslashes": b'["' + repeat(b'\\"') + b'",' + repeat(b"0,", 2_000_000) + b"0]",
}


def test_long_strings_of_commas_and_brackets_are_accepted() -> None:
    for text in (",[{:" * 1_000_000, '\\",' * 500_000, "\\" * 1_000_000):
        assert parse_json(encode_json({"input": {"text": text}})) == {"input": {"text": text}}


def test_number_of_values_is_limited_exactly() -> None:
    values = [0.5] * (MAX_JSON_VALUES - 1)
    assert parse_json(encode_json(values)) == values
    with pytest.raises(ValueError, match="values and member names"):
        parse_json(encode_json([*values, 0.5, 0.5]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(alphabet='\\",:[{'),
    lambda children: st.lists(children) | st.dictionaries(st.text(alphabet='a\\",:['), children),
)


def count_values(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count_values, value.values()))
    return 1 + (sum(map(count_values, value)) if isinstance(value, list) else 0)


@given(value=json_values, is_ascii=st.booleans())
@example(value=['"', "\\", '\\"', "a\\\\"], is_ascii=False)
def test_too_many_values_are_refused_with_any_escapes(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        # A container with n items has n - 1 commas and one bracket.
        patch.setattr(json_text, "MAX_JSON_VALUES", count_values(value) - 2)
        with pytest.raises(ValueError, match=r"values and member names|codec"):
            parse_json(text)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400, "1" * 310 + ".0"])
async def test_number_too_large_for_a_float_is_refused(
    gateway: RunningGateway, number: str
) -> None:
    encoded = base64.b64encode(number.encode()).decode()
    tensor = {"name": "a", "datatype": "BYTES", "shape": [1], "data": [number]}
    sent: list[tuple[str, dict[str, Any]]] = [
        (JOBS, {"json": {"input": {"base64": encoded, "media_type": JSON}}}),
        (JOBS, {"files": {"file": ("a", number, JSON)}}),
        (JOBS, typed(f'{{"input": {{"json": {number}}}}}')),
        (JOBS, typed(f'{{"input": {{"json": 1}}, "deadline_seconds": {number}}}')),
        (f'{JOBS}?parameters={{"a":{number}}}', {"content": b"x"}),
        (INFER, {"json": {"inputs": [{**tensor, "parameters": {"content_type": JSON}}]}}),
        (INFER, typed(f'{{"parameters": {{"a": {number}}}, "inputs": []}}')),
    ]
    for path, content in sent:
        answer = await gateway.http.post(path, **content)
        assert answer.status_code in {400, 415}, (path, answer.text)


def typed(text: str) -> dict[str, Any]:
    return {"content": text, "headers": {"content-type": JSON}}


def form(data: bytes, media_type: str = JSON) -> dict[str, Any]:
    head = (
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    )
    return form_body(head.encode() + data + b"\r\n--b--\r\n")


def form_body(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": "multipart/form-data; boundary=b"}}


def jpeg(segments: bytes) -> dict[str, Any]:
    return {"content": b"\xff\xd8" + segments, "headers": {"content-type": "image/jpeg"}}


def envelope(value: bytes) -> dict[str, Any]:
    return {"content": in_envelope(value), "headers": {"content-type": JSON}}


def tensor_json(elements: bytes, count: int) -> dict[str, Any]:
    head = b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [%d], "data": ' % count
    return {"content": head + elements + b"}]}", "headers": {"content-type": JSON}}


def tensor_bytes(datatype: str, count: int, data: bytes) -> dict[str, Any]:
    size = {"binary_data_size": len(data)}
    tensor = {"name": "a", "datatype": datatype, "shape": [count], "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    return {
        "content": head + data,
        "headers": {"inference-header-content-length": str(len(head))},
    }


LONG_FLOATS = b"[" + b"1.2345678901234567," * 290_000 + b"0]"
ATTACKS: dict[str, tuple[str, dict[str, Any], int]] = {
    **{name: (JOBS, envelope(text), 400) for name, text in HOSTILE.items()},
    "values below the limit": (JOBS, envelope(LONG_FLOATS), 202),
    "form of brackets": (JOBS, form(HOSTILE["brackets"]), 415),
    "form of delimiters": (JOBS, form(repeat(b"\r\n--"), "text/plain"), 202),
    "form of headers": (JOBS, form_body(b"--b\r\n" + repeat(b"a: b\r\n")), 400),
    "form of parts": (JOBS, form_body(repeat(b"--b\r\n\r\n\r\n")), 400),
    "JPEG of markers": (CLASSIFIER_JOBS, jpeg(repeat(b"\xff\xd0")), 422),
    "tensor of brackets": (INFER, tensor_json(HOSTILE["brackets"], 1), 400),
    "tensor of numbers": (INFER, tensor_json(LONG_FLOATS, 290_001), 504),
    "tensor of bytes": (INFER, tensor_bytes("UINT8", TEN_MEGABYTES, bytes(TEN_MEGABYTES)), 400),
    "tensor of empty texts": (INFER, tensor_bytes("BYTES", 2_500_000, bytes(TEN_MEGABYTES)), 400),
    "URL": (JOBS, typed('{"input": {"url": "https://a/' + "a" * TEN_MEGABYTES + '"}}'), 422),
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Open a gateway whose models accept bodies of ten megabytes, so that the attacks are hard."""
    catalogue = tmp_path / "models.toml"
    shipped = DEFAULT_PATH.read_text(encoding="utf-8")
    catalogue.write_text(
        re.sub(r"max_input_bytes = .*", "max_input_bytes = 10_485_760", shipped), encoding="utf-8"
    )
    async with open_gateway(catalogue_path=catalogue) as opened:
        yield opened


@pytest.mark.parametrize("name", ATTACKS)
async def test_hostile_body_delays_no_other_request(gateway: RunningGateway, name: str) -> None:
    path, sent, status = ATTACKS[name]
    sent = {**sent, "headers": {**sent["headers"], "prefer": "wait=0"}}
    attack = asyncio.create_task(gateway.http.post(path, **sent))
    longest_seconds = 0.0
    while not attack.done():
        # The processor time of this process does not depend on other processes of the machine.
        begin = time.process_time()
        await asyncio.sleep(0)
        answer = await gateway.http.get("/v1/health/live")
        longest_seconds = max(longest_seconds, time.process_time() - begin)
        assert answer.status_code == 200
    assert (await attack).status_code == status, (await attack).text
    assert longest_seconds < STALL_SECONDS


LARGE = bytes(range(256)) * 16_384
WAITING: dict[str, tuple[str, dict[str, Any]]] = {
    "bytes": (JOBS, {"content": LARGE}),
    "base64": (JOBS, typed(json.dumps({"input": {"base64": base64.b64encode(LARGE).decode()}}))),
    "text": (JOBS, typed(json.dumps({"input": {"text": "é" * 1_500_000}}))),
    "JSON": (JOBS, envelope(b'["' + b"a" * 4_000_000 + b'"]')),
    "form": (JOBS, form(LARGE, "application/octet-stream")),
    "tensor": (INFER, tensor_bytes("BYTES", 1, len(LARGE).to_bytes(4, "little") + LARGE)),
}


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("kind", WAITING)
async def test_no_copy_of_the_body_stays_during_the_wait(
    gateway: RunningGateway, kind: str, key: str | None
) -> None:
    path, sent = WAITING[kind]
    headers = {**sent.get("headers", {}), "prefer": "wait=100"}
    if key is not None:
        headers["idempotency-key"] = key
    url, body = f"http://gateway.test{path}", sent["content"]
    body = body.encode() if isinstance(body, str) else body
    headers["content-length"] = str(len(body))
    # The schemas of all routes are built at the first request to /v2, and stay in memory.
    await gateway.http.get("/v2/models/unknown")
    tracemalloc.start()
    try:
        pieces = (bytes(bytearray(body[at : at + 65536])) for at in range(0, len(body), 65536))
        scope = scope_of("POST", url, headers)
        serving = asyncio.create_task(call(gateway.app, gateway.durable, scope, pieces))
        await until(lambda: bool(gateway.durable.runs) or serving.done())
        gateway.payloads.blobs.clear()
        for _ in range(3):
            await asyncio.sleep(0)
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes > len(body)
    assert kept_bytes < len(body) // 4
    await gateway.reply()
    assert (await serving).status == 200


def test_tenant_can_use_half_of_the_memory() -> None:
    bodies, unit = LargeBodies(10 * len(LARGE)), len(LARGE)
    with bodies.counting("a") as first, bodies.counting("a") as second:
        first.hold(3 * unit)
        second.hold(2 * unit)
        with pytest.raises(HttpProblem) as refused:
            second.hold(3 * unit)
        assert (refused.value.kind.code, refused.value.kind.status) == ("overloaded", 503)
        assert int(refused.value.headers["Retry-After"]) > 0
        with bodies.counting("b") as other, bodies.counting("c") as last:
            other.hold(5 * unit)
            assert bodies.total_bytes == 10 * unit
            with pytest.raises(HttpProblem):
                last.hold(unit)
            first.release()
            last.hold(unit)
    assert bodies.total_bytes == 0


def test_only_large_body_is_always_admitted() -> None:
    with LargeBodies(1000).counting("a") as held:
        held.hold(SMALL_BODY_BYTES + 1)
        held.hold(SMALL_BODY_BYTES * 2)


async def test_parser_alternates_between_tenants() -> None:
    bodies, order = LargeBodies(1000), list[str]()
    large = bytes(SMALL_BODY_BYTES + 1)
    sent = [(f"a{number}", "a") for number in range(4)] + [("b", "b"), ("c", "c")]
    await asyncio.gather(
        *(
            bodies.parse(tenant, large, lambda _, name=name: order.append(name))  # type: ignore[misc]
            for name, tenant in sent
        )
    )
    assert order == ["a0", "a1", "b", "c", "a2", "a3"]


async def test_cancelled_wait_for_the_parser_blocks_nobody() -> None:
    bodies, large = LargeBodies(1000), bytes(SMALL_BODY_BYTES + 1)
    tasks = [asyncio.create_task(bodies.parse("a", large, len)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[0], *found[2:]] == [len(large)] * 3
    assert isinstance(found[1], asyncio.CancelledError)


async def send_slowly(
    gateway: RunningGateway, may_go_on: asyncio.Event, key: dict[str, str]
) -> int:
    """Send a large form, whose last byte waits for the event; return the status."""
    sent = form(LARGE, "application/octet-stream")

    async def pieces() -> AsyncIterator[bytes]:
        yield sent["content"][:-1]
        await may_go_on.wait()
        yield sent["content"][-1:]

    headers = {**sent["headers"], **key, "prefer": "wait=0"}
    headers["content-length"] = str(len(sent["content"]))
    return (await gateway.http.post(JOBS, content=pieces(), headers=headers)).status_code


async def test_bodies_over_the_limit_get_503() -> None:
    async with open_gateway(body_memory_bytes=9 * len(LARGE)) as gateway:
        may_go_on = asyncio.Event()
        sent = [asyncio.create_task(send_slowly(gateway, may_go_on, {})) for _ in range(10)]
        assert [status async for status in as_they_end(sent, 6)] == [503] * 6
        # A small body is still accepted.
        small = await gateway.http.post(JOBS, content=b"x", headers={"prefer": "wait=0"})
        assert small.status_code == 202
        may_go_on.set()
        assert sorted([await task for task in sent]) == [202] * 4 + [503] * 6
        assert gateway.services.bodies.total_bytes == 0


async def test_tenant_is_served_beside_one_with_large_bodies() -> None:
    async with open_gateway(api_keys=SETTING, body_memory_bytes=9 * len(LARGE)) as gateway:
        may_go_on = asyncio.Event()
        sent = [asyncio.create_task(send_slowly(gateway, may_go_on, bearer("a"))) for _ in range(8)]
        assert [status async for status in as_they_end(sent, 4)] == [503] * 4
        other = asyncio.create_task(send_slowly(gateway, may_go_on, bearer("b")))
        may_go_on.set()
        assert await other == 202
        assert sorted([await task for task in sent]) == [202] * 4 + [503] * 4


async def test_waiting_jobs_count_no_memory(gateway: RunningGateway) -> None:
    sent = form(LARGE, "application/octet-stream")
    posting = asyncio.create_task(gateway.http.post(JOBS, **sent))
    await until(lambda: bool(gateway.durable.runs))
    assert gateway.services.bodies.total_bytes == 0
    await gateway.reply()
    assert (await posting).status_code == 200


def zeros(size_bytes: int, taken: list[int]) -> Iterator[bytes]:
    """Yield a body in pieces of 64 KiB, and count the bytes that were taken."""
    for _ in range(size_bytes // 65536):
        taken.append(65536)
        yield bytes(65536)


@pytest.mark.parametrize("media_type", ["application/octet-stream", JSON, "multipart/form-data"])
@pytest.mark.parametrize("key", [None, "k"])
async def test_reading_stops_at_the_limit(
    gateway: RunningGateway, media_type: str, key: str | None
) -> None:
    taken: list[int] = []
    headers = {"content-type": media_type, "transfer-encoding": "chunked"}
    if key is not None:
        headers["idempotency-key"] = key
    scope = scope_of("POST", f"http://gateway.test{JOBS}", headers)
    answer = await call(gateway.app, gateway.durable, scope, zeros(10 * TEN_MEGABYTES, taken))
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "payload-too-large")
    assert answer.headers["connection"] == "close"
    assert 10_485_760 <= sum(taken) < 16_000_000
    assert not gateway.payloads.blobs
    assert not gateway.queues.sent


@pytest.mark.parametrize("path", [JOBS, INFER, "/v1/uploads", f"/v1/jobs/{'0' * 36}/reply"])
async def test_announced_size_is_refused_unread(gateway: RunningGateway, path: str) -> None:
    taken: list[int] = []
    headers = {"content-length": str(MAX_BODY_BYTES + 1)}
    scope = scope_of("POST", f"http://gateway.test{path}", headers)
    pieces = zeros(MAX_BODY_BYTES, taken)
    answer = await call(gateway.app, gateway.durable, scope, pieces)
    assert answer.status in {404, 413}
    assert sum(taken) <= 512 * 1024


async def no_pieces() -> AsyncIterator[bytes]:
    yield b""


def test_no_model_accepts_what_the_host_cuts_off() -> None:
    IncomingBody(no_pieces(), MAX_BODY_BYTES).limit(lambda _: None)
    with pytest.raises(HttpProblem) as refused:
        IncomingBody(no_pieces(), MAX_BODY_BYTES + 1).limit(lambda _: None)
    assert refused.value.kind.status == 413
    assert refused.value.extra == {"limit_bytes": MAX_BODY_BYTES}


async def submit_in_pieces(gateway: RunningGateway, data: bytes, **headers: str) -> Answer:
    """Submit a job whose body has no announced size."""
    pieces = (data[at : at + 65536] for at in range(0, len(data), 65536))
    headers = {"prefer": "wait=0", "transfer-encoding": "chunked", **headers}
    scope = scope_of("POST", f"http://gateway.test{JOBS}", headers)
    return await call(gateway.app, gateway.durable, scope, pieces)


@pytest.mark.parametrize("size_bytes", [1, STREAMED_BYTES, STREAMED_BYTES + 1, 3_000_001])
async def test_chunked_body_becomes_the_input(gateway: RunningGateway, size_bytes: int) -> None:
    data = (LARGE * 2)[:size_bytes]
    answer = await submit_in_pieces(gateway, data)
    assert answer.status == 202, answer.body
    found = gateway.queues.request().input
    if isinstance(found, PayloadRef):
        assert await gateway.payloads.get(found) == data
    else:
        assert found == InlineBytes("application/octet-stream", data)


def stored_inputs(gateway: RunningGateway) -> list[str]:
    return [name for name in gateway.payloads.blobs if name.startswith("inputs/")]


async def test_repeated_large_body_is_stored_once(gateway: RunningGateway) -> None:
    first, second = [
        await submit_in_pieces(gateway, LARGE, **{"idempotency-key": "k"}) for _ in range(2)
    ]
    assert json.loads(first.body)["id"] == json.loads(second.body)["id"]
    assert second.headers["idempotency-replayed"] == "true"
    assert len(stored_inputs(gateway)) == 1
    other = await submit_in_pieces(gateway, LARGE + b"x", **{"idempotency-key": "k"})
    assert (other.status, json.loads(other.body)["code"]) == (422, "idempotency-mismatch")
    assert len(stored_inputs(gateway)) == 1


async def test_late_nul_byte_in_a_text_is_refused(gateway: RunningGateway) -> None:
    text = b"a" * (2 * STREAMED_BYTES)
    accepted = await submit_in_pieces(gateway, text, **{"content-type": "text/plain"})
    assert accepted.status == 202
    refused = await submit_in_pieces(gateway, text + b"\0", **{"content-type": "text/plain"})
    assert (refused.status, json.loads(refused.body)["code"]) == (415, "unsupported-media-type")


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until the condition is true."""
    for _ in iter(condition, True):
        await asyncio.sleep(0)


async def as_they_end(tasks: list[asyncio.Task[Any]], count: int) -> AsyncIterator[Any]:
    for number, task in enumerate(asyncio.as_completed(tasks), 1):
        yield await task
        if number == count:
            return


@pytest.mark.parametrize("host", ["[", "[::1", "]", "a[b", "[x]", "[v1.a]:1", "a:b:c", "[::1]]"])
async def test_malformed_host_header_is_no_internal_error(
    gateway: RunningGateway, host: str
) -> None:
    scope = scope_of("GET", "http://gateway.test/v1/nothing", {"host": host})
    answer = await call(gateway.app, gateway.durable, scope)
    assert answer.status in {400, 404}
    assert json.loads(answer.body)["code"] in {"malformed-request", "not-found"}
    assert answer.headers["content-type"] == "application/problem+json"


HEADERS = (
    "host", "accept", "authorization", "content-encoding", "content-length", "content-type",
    "cookie", "idempotency-key", "if-match", "if-none-match", "inference-header-content-length",
    "origin", "prefer", "traceparent", "tracestate", "transfer-encoding", "x-api-key",
    "x-ms-client-principal",
)  # fmt: skip
QUERIES = (
    "cursor", "deadline_seconds", "expires", "limit", "model", "parameters", "priority", "queue",
    "status", "token", "upload", "webhook_url",
)  # fmt: skip
JOB = "/v1/jobs/018f0000-0000-7000-8000-000000000000"
TARGETS = [
    ("POST", JOBS), ("POST", INFER), ("POST", "/v1/uploads"), ("GET", "/v1/jobs"), ("GET", JOB),
    ("GET", f"{JOB}/result"), ("DELETE", JOB), ("POST", f"{JOB}/reply"), ("GET", f"{JOB}/reply"),
    ("PUT", f"{JOB}/progress"), ("GET", f"{JOB}/webhook"), ("GET", "/v1/models"), ("GET", "/docs"),
    ("GET", "/v1/admin/dead-letters"), ("DELETE", "/v1/admin/dead-letters"), ("GET", "/v2"),
    ("POST", f"/v1/admin{JOB[3:]}/webhook/redeliver"), ("OPTIONS", JOBS), ("BREW", "/"),
    ("POST", "/v1/admin/dead-letters/noop/a/redrive"), ("GET", "/v1/models/%ED%A0%80"),
]  # fmt: skip
ODD = st.text(max_size=20) | st.sampled_from(
    [
        "", "[", "]", "\x00", "é", "\xff", "%", "%00", "%ED%A0%80", "\ud800", "\u0663", "1e999",
        "-1", "9" * 400, "{}", "[1e999]", '{"a":1e999}', "[" * 400, ";", "=", '"', '"a', "a,b",
        "W/", "*", "*/*;q=9", "multipart/form-data; boundary=a; charset=undefined", 'wait=9;x="',
        "Bearer \xff", "application/json; charset=idna", "00-0-0-0", "chunked", "low",
        "https://[", "http://a:b/",
    ]
)  # fmt: skip


@pytest.fixture(params=["open", "keys"])
async def strict(request: pytest.FixtureRequest) -> AsyncIterator[RunningGateway]:
    keys: dict[str, Any] = {
        "api_keys": SETTING,
        "trust_principal_header": True,
        "cors_origins": ("https://a",),
    }
    chosen = keys if request.param == "keys" else {}
    # A request that Prefer does not limit must not wait for a job that never ends.
    async with open_gateway(default_wait_seconds=0, **chosen) as gateway:
        yield gateway


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    target=st.sampled_from(TARGETS),
    headers=st.dictionaries(st.sampled_from(HEADERS), ODD, max_size=4),
    query=st.lists(st.tuples(st.sampled_from(QUERIES) | ODD, ODD), max_size=3),
    body=st.sampled_from([b"", b"x", b"{}", b"\xff"]),
)
@example(("GET", "/v1/nothing"), {"host": "["}, [], b"")
@example(("POST", JOBS), {}, [("parameters", '{"a":1e999}')], b"x")
async def test_no_headers_and_query_are_an_internal_error(
    strict: RunningGateway,
    target: tuple[str, str],
    headers: dict[str, str],
    query: list[tuple[str, str]],
    body: bytes,
) -> None:
    method, path = target
    text = "&".join(f"{name}={value}" for name, value in query)
    scope = scope_of(method, "http://gateway.test", {"prefer": "wait=0", **headers})
    scope["raw_path"] = path.encode()
    scope["query_string"] = text.encode("utf-8", "replace")
    answer = await call(strict.app, strict.durable, scope, [body])
    assert 200 <= answer.status < 500, answer.body


async def test_unusable_charset_of_a_form_is_ignored(gateway: RunningGateway) -> None:
    body = form(b"x", "text/plain")["content"].replace(
        b"--b--", b'--b\r\nContent-Disposition: form-data; name="priority"\r\n\r\nlow\r\n--b--'
    )
    headers = {
        "content-type": "multipart/form-data; charset=undefined; boundary=b",
        "prefer": "wait=0",
    }
    answer = await gateway.http.post(JOBS, content=body, headers=headers)
    assert answer.status_code == 202
