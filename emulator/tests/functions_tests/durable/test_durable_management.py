"""Test the responses of the management API to valid, invalid and random requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.functions.durable.azure_storage.engine import AzureStorageEngine
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.durable.extension import DurableExtension
from emulator.functions.durable.local.engine import LocalEngine
from emulator.functions.durable.management import MAX_REQUEST_BODY_BYTES
from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import SdkRunner
from manual_clock import ManualClock

Answer = tuple[int, dict[str, str], bytes]
CLOCK = ManualClock()


async def request(  # noqa: PLR0917 - the parts of a request
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    query: bytes = b"",
    headers: dict[str, str] | None = None,
    root_path: str = "",
) -> Answer:
    """Send one request to an ASGI application without a socket, and return the response."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root_path,
        "query_string": query,
        "headers": [
            (name.encode(), value.encode())
            for name, value in {"host": "h:1", **(headers or {})}.items()
        ],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, end = sent
    received = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    assert int(received["content-length"]) == len(end["body"])
    if end["body"]:
        json.loads(end["body"])
    return start["status"], received, end["body"]


async def make_engine(folder: Path, kind: str) -> DurableExtension:
    runner = SdkRunner()
    runner.disabled_orchestrators = frozenset({"off"})

    @runner.orchestrator
    def wait(context: Any) -> Any:
        return (yield context.wait_for_external_event("go"))

    storage = None if kind == "local" else AzureStorageOptions(folder / "task-hub.db")
    engine = DurableExtension(folder / "hub.db", runner, CLOCK, DurableOptions("Hub"), storage)
    await engine.start()
    return engine


@pytest.fixture(params=["local", "azure-storage"])
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[DurableExtension]:
    made = await make_engine(tmp_path, request.param)
    yield made
    await made.stop()


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("prefix", "root_path"),
    [
        ("", ""),
        ("/durabletask", ""),
        ("/runtime/webhooks/durabletask", ""),
        ("/runtime/webhooks/durabletask", "/runtime/webhooks/durabletask"),
        ("", "/durabletask"),
    ],
)
async def test_every_path_prefix_is_served(
    engine: DurableExtension, prefix: str, root_path: str
) -> None:
    app = engine.management_app
    start = await request(app, "POST", f"{prefix}/orchestrators/wait/x", root_path=root_path)
    assert start[0] == 202
    link = json.loads(start[2])["statusQueryGetUri"]
    assert link.startswith("http://h:1/runtime/webhooks/durabletask/instances/x?taskHub=Hub&")
    assert (await request(app, "GET", f"{prefix}/instances/x", root_path=root_path))[0] == 202


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b"x", b"'x", b"[" * 100_000, b'{"a":1}x', b"[1 2]", b'"\\u12"', b"{,}", b"-"],
)
async def test_invalid_json_is_refused(engine: DurableExtension, body: bytes) -> None:
    app = engine.management_app
    status, _, answer = await request(app, "POST", "/orchestrators/wait", body)
    assert status == 400
    refusal = json.loads(answer)
    assert refusal["Message"] == "Invalid JSON content"
    assert refusal["ExceptionType"] == "Newtonsoft.Json.JsonReaderException"
    await request(app, "POST", "/orchestrators/wait/j")
    status, *_ = await request(app, "POST", "/instances/j/raiseEvent/go", body, headers=JSON)
    assert status == 400


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{'a':[1,],b:/*c*/2.0}", {"a": [1], "b": 2.0}),
        (b"NaN", "NaN"),
        (b"[-1e400,1e400,1e4]", ["-Infinity", "Infinity", 1e4]),
        (b"'it\\'s \\u00e9\\n'", "it's \u00e9\n"),
    ],
)
async def test_body_is_parsed_as_newtonsoft_json_does(
    engine: DurableExtension, body: bytes, value: Any
) -> None:
    app = engine.management_app
    assert (await request(app, "POST", "/orchestrators/wait/n", body))[0] == 202
    _, _, answer = await request(app, "GET", "/instances/n")
    assert json.loads(answer)["input"] == value


async def test_invalid_event_gets_404_or_410(
    engine: DurableExtension,
) -> None:
    app = engine.management_app
    assert (await request(app, "POST", "/instances/no/raiseEvent/go", b"{"))[0] == 404
    await request(app, "POST", "/orchestrators/wait/b")
    assert (await request(app, "POST", "/instances/b/raiseEvent/go", b"1"))[0] == 400
    assert (await request(app, "POST", "/instances/b/raiseEvent/go", b"1", headers=JSON))[0] == 202
    assert await engine.engine.wait_finished("b", 5)
    assert (await request(app, "POST", "/instances/b/raiseEvent/go", b"{"))[0] == 410


async def test_body_over_the_limit_is_refused(engine: DurableExtension) -> None:
    body = b" " * (MAX_REQUEST_BODY_BYTES + 1)
    assert (await request(engine.management_app, "POST", "/orchestrators/wait", body))[0] == 413


async def test_purge_of_a_running_instance_is_refused(engine: DurableExtension) -> None:
    app = engine.management_app
    await request(app, "POST", "/orchestrators/wait/p")
    status, _, body = await request(app, "DELETE", "/instances/p")
    assert status == 412
    assert "Only orchestrations in a terminal state can be purged" in json.loads(body)
    assert (await request(app, "DELETE", "/instances"))[0] == 400
    everything = b"createdTimeFrom=2000-01-01T00:00:00Z"
    assert (await request(app, "DELETE", "/instances", query=everything))[0] == 404


async def test_termination_reason_is_parsed_as_json(
    engine: DurableExtension,
) -> None:
    """As in the Durable extension, a reason that is not JSON is returned as a string."""
    app = engine.management_app
    for reason, output in ((b"42", 42), (b"NaN", "NaN"), (b"%7B", "{"), (b"", None)):
        await request(app, "POST", "/orchestrators/wait/r")
        query = b"reason=" + reason
        assert (await request(app, "POST", "/instances/r/terminate", query=query))[0] == 202
        assert await engine.engine.wait_finished("r", 5)
        _, _, body = await request(app, "GET", "/instances/r")
        assert json.loads(body)["output"] == output


async def test_history_contains_the_termination_reason(
    engine: DurableExtension,
) -> None:
    app = engine.management_app
    for reason, shown in ((b"enough", "enough"), (b"42", "42"), (b"%7B%22a%22:1%7D", '{"a":1}')):
        await request(app, "POST", "/orchestrators/wait/h")
        await request(app, "POST", "/instances/h/terminate", query=b"reason=" + reason)
        assert await engine.engine.wait_finished("h", 5)
        query = b"showHistory=true&showHistoryOutput=true"
        status, _, body = await request(app, "GET", "/instances/h", query=query)
        assert status == 200
        events = {event["EventType"]: event for event in json.loads(body)["historyEvents"]}
        assert events["ExecutionTerminated"]["Input"] == shown


async def test_history_is_shown_only_on_request(
    engine: DurableExtension,
) -> None:
    app = engine.management_app
    await request(app, "POST", "/orchestrators/wait/v", query=b"version=2.0")
    _, _, body = await request(app, "GET", "/instances/v")
    assert list(json.loads(body)) == [
        *("name", "version", "instanceId", "runtimeStatus", "input", "customStatus"),
        *("output", "createdTime", "lastUpdatedTime"),
    ]
    _, _, body = await request(app, "GET", "/instances/v", query=b"showHistory=true")
    assert list(json.loads(body))[-1] == "historyEvents"


async def test_rewind_of_a_missing_instance_names_the_id(
    engine: DurableExtension,
) -> None:
    app = engine.management_app
    status, _, body = await request(app, "POST", "/instances/none/rewind")
    assert (status, json.loads(body)) == (404, 'No orchestration with instance ID "$none" found.')


async def test_purge_without_created_time_from_is_refused(
    engine: DurableExtension,
) -> None:
    status, _, body = await request(engine.management_app, "DELETE", "/instances")
    text = "Please provide value for 'createdTimeFrom' parameter."
    assert (status, json.loads(body)) == (400, text)


async def test_suspending_twice_is_refused(engine: DurableExtension) -> None:
    app = engine.management_app
    await request(app, "POST", "/orchestrators/wait/s")
    await request(app, "POST", "/instances/s/raiseEvent/other", b"1", headers=JSON)
    await request(app, "POST", "/instances/s/suspend")
    async with asyncio.timeout(30):
        while b"Suspended" not in (await request(app, "GET", "/instances/s"))[2]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    status, _, body = await request(app, "POST", "/instances/s/suspend")
    assert status == 500
    assert json.loads(body)["ExceptionMessage"] == (
        "Cannot suspend the orchestration instance s because instance is in the Suspended state."
    )


async def test_refused_resume_is_logged_with_the_id(
    engine: DurableExtension, caplog: pytest.LogCaptureFixture
) -> None:
    app = engine.management_app
    await request(app, "POST", "/orchestrators/wait/s")
    async with asyncio.timeout(30):
        while b"Running" not in (await request(app, "GET", "/instances/s"))[2]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    status, _, body = await request(app, "POST", "/instances/s/resume")
    assert (status, json.loads(body)["ExceptionMessage"]) == (
        500,
        "Cannot resume the orchestration instance s because instance is in the Running state.",
    )
    assert caplog.messages == ["s: Cannot resume orchestration instance in the Running state."]


async def test_disabled_orchestrator_cannot_be_started(engine: DurableExtension) -> None:
    status, _, body = await request(engine.management_app, "POST", "/orchestrators/OFF")
    assert status == 400
    assert json.loads(body) == {
        "Message": "The function 'OFF' doesn't exist, is disabled, or is not an orchestrator "
        "function. Additional info: The following are the known orchestrator functions: 'wait'."
    }


async def test_start_that_outlasts_its_wait_returns_links(engine: DurableExtension) -> None:
    query = b"timeout=0.01&pollingInterval=0.01"
    call = asyncio.ensure_future(
        request(engine.management_app, "POST", "/orchestrators/wait/t", query=query)
    )
    await asyncio.sleep(0)
    assert isinstance(engine.engine, LocalEngine | AzureStorageEngine)
    while not call.done():
        CLOCK.moment += timedelta(milliseconds=1)
        engine.engine.clock_moved()
        await asyncio.sleep(0)
    status, _, body = call.result()
    assert (status, json.loads(body)["id"]) == (202, "t")
    assert "?taskHub=Hub&connection=Storage&code=" in json.loads(body)["statusQueryGetUri"]


@pytest.mark.parametrize("connection", ["Storage", "AzureWebJobsStorage", "storage"])
async def test_both_names_of_the_connection_are_accepted(
    engine: DurableExtension, connection: str
) -> None:
    query = f"connection={connection}".encode()
    assert (await request(engine.management_app, "GET", "/instances", query=query))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/entities", (200, [])),
        ("GET", "/entities/Counter", (200, [])),
        ("GET", "/entities/Counter/k", (404, None)),
        ("PUT", "/entities/Counter/k", (404, None)),
        ("POST", "/entities/Counter/k", (400, None)),
        ("DELETE", "/entities/Counter/k", (400, None)),
    ],
)
async def test_app_without_entities_answers_as_the_extension(
    engine: DurableExtension, method: str, path: str, expected: tuple[int, Any]
) -> None:
    status, _, body = await request(engine.management_app, method, path)
    found = json.loads(body) if body else None
    if status == 400:
        assert found == {
            "Message": "The function 'counter' doesn't exist, is disabled, or is not an entity "
            "function. Additional info: No entity functions are currently registered!"
        }
        found = None
    assert (status, found) == expected


class PausedRunner(SdkRunner):
    """A runner that runs an orchestrator only when the event `may_run` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_run = asyncio.Event()
        self.may_run.set()

    async def run_orchestrator(self, name: str, context_json: str) -> str:
        await self.may_run.wait()
        return await super().run_orchestrator(name, context_json)


async def test_result_is_shown_only_after_it_is_stored(
    tmp_path: Path,
) -> None:
    runner = PausedRunner()
    may_end = {name: asyncio.Event() for name in ("first", "second")}

    @runner.activity
    async def work(name: str) -> str:
        await may_end[name].wait()
        return name

    @runner.orchestrator
    def both(context: Any) -> Any:
        return (yield context.task_all([context.call_activity("work", name) for name in may_end]))

    engine = DurableExtension(tmp_path / "hub.db", runner, ManualClock(), DurableOptions("Hub"))
    await engine.start()

    async def show_history() -> bytes:
        for _ in range(30):
            await asyncio.sleep(0)
        query = b"showHistory=true&showHistoryOutput=true"
        return (await request(engine.management_app, "GET", "/instances/i", query=query))[2]

    await request(engine.management_app, "POST", "/orchestrators/both/i")
    await show_history()
    # While the orchestrator runs with the first result, the second result waits in memory.
    runner.may_run.clear()
    may_end["first"].set()
    await show_history()
    may_end["second"].set()
    assert b'"Result"' not in await show_history()
    runner.may_run.set()
    shown = await show_history()
    assert b'"Result":"first"' in shown
    assert b'"Result":"second"' in shown
    await engine.stop()


async def test_suspended_instance_shows_only_stored_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = SdkRunner()
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    @runner.activity
    async def work(name: str) -> str:
        has_begun.set()
        await may_end.wait()
        return name

    @runner.orchestrator
    def one(context: Any) -> Any:
        return (yield context.call_activity("work", "first"))

    engine = DurableExtension(tmp_path / "hub.db", runner, ManualClock(), DurableOptions("Hub"))
    await engine.start()
    assert isinstance(engine.engine, LocalEngine)
    store = engine.engine.store

    async def show_history() -> bytes:
        for _ in range(30):
            await asyncio.sleep(0)
        query = b"showHistory=true&showHistoryOutput=true"
        return (await request(engine.management_app, "GET", "/instances/i", query=query))[2]

    await request(engine.management_app, "POST", "/orchestrators/one/i")
    await asyncio.wait_for(has_begun.wait(), timeout=10)
    await request(engine.management_app, "POST", "/instances/i/suspend")
    assert b'"Suspended"' in await show_history()
    with monkeypatch.context() as delayed:
        delayed.setattr(store, "flush", lambda: None)
        may_end.set()
        assert b'"Result"' not in await show_history()
        assert store.is_busy
    store.flush()
    assert b'"Result":"first"' in await show_history()
    await engine.stop()


WORDS = [
    "orchestrators",
    "instances",
    "wait",
    "i",
    "raiseEvent",
    "terminate",
    "suspend",
    "resume",
    "rewind",
    "restart",
    "entities",
    "go",
    "makeprimary",
    "durabletask",
]


def fragments() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(WORDS),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    )


def queries() -> st.SearchStrategy[bytes]:
    names = [b"showHistory", b"showHistoryOutput", b"showInput", b"top", b"timeout", b"reason"]
    names += [b"pollingInterval", b"createdTimeFrom", b"createdTimeTo", b"runtimeStatus"]
    names += [b"instanceIdPrefix", b"version", b"restartWithNewInstanceId"]
    values = st.one_of(
        st.sampled_from([b"true", b"0", b"-1", b"1e999", b"nan", b"2026-01-01", b"Running,x"]),
        st.binary(max_size=8),
    )
    pairs = st.tuples(st.sampled_from(names), values).map(b"=".join)
    return st.lists(pairs, max_size=3).map(b"&".join)


@pytest.mark.parametrize("kind", ["local", "azure-storage"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
            st.lists(fragments(), max_size=5),
            queries(),
            st.one_of(st.sampled_from([b"", b"1", b'{"a":[]}', b"{"]), st.binary(max_size=8)),
            st.sampled_from([{}, JSON, {"x-ms-continuation-token": "\u0660"}]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_random_requests_leave_the_api_usable(
    tmp_path_factory: pytest.TempPathFactory, kind: str, calls: list[Any]
) -> None:
    async def play() -> None:
        engine = await make_engine(tmp_path_factory.mktemp("hub"), kind)
        try:
            await request(engine.management_app, "POST", "/orchestrators/wait/i")
            for method, parts, query, body, headers in calls:
                path = "/" + "/".join(parts)
                answer = await request(
                    engine.management_app, method, path, body, query, headers=headers
                )
                assert answer[0] in {200, 202, 400, 404, 409, 410, 412, 500}
                if answer[0] == 500 and "entities" not in path:
                    assert b"state" in answer[2] or b"rewind" in answer[2]
            assert (await request(engine.management_app, "GET", "/instances"))[0] == 200
        finally:
            await engine.stop()

    asyncio.run(play())
