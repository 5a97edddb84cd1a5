"""Send recorded requests to the management API, and compare the new and the recorded responses.

`observed/durable-3.19.0.jsonl` contains the recording. It consists of the requests of five client
sessions in their order, and of the responses of the HTTP API of the Durable extension 3.19.0, which
stored its data in Azurite. Ids, times and stacks are replaced with words such as `<id>`. In a URL,
`Q` stands for the query string with the task hub, and `K` for the query string without the task
hub. The texts of failures are not compared here but in other tests, because the recorded functions
were written in C#.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from emulator.functions.durable.extension import DurableExtension
from emulator.functions.durable.local.engine import LocalEngine
from emulator.functions.durable.store import Store
from emulator.functions.settings import DurableOptions
from functions_tests.durable.observed_functions import ObservedFunctions
from manual_clock import ManualClock

FIDELITY = Path(__file__).parents[3] / "FIDELITY.md"
FILE = Path(__file__).parent / "observed" / "durable-3.19.0.jsonl"
BASE = "http://localhost:7071/runtime/webhooks/durabletask"
Exchange = dict[str, Any]


def read_runs() -> dict[str, list[Exchange]]:
    """Return the recorded requests and responses in their order, by the name of the session."""
    runs: dict[str, list[Exchange]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        runs.setdefault(exchange["run"], []).append(exchange)
    return runs


RUNS = read_runs()
_TIMES = {
    "<s>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "<f>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?Z"),
    "<o>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?\+00:00"),
}
_ID = re.compile(r"[0-9a-f]{32}")
# The id of a child without its own id: the execution id of the parent, and a number.
_DASHED_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=:\d)")


class Replay:
    """Sends the recorded requests of one session to the management API of a new engine."""

    def __init__(self, extension: DurableExtension, functions: ObservedFunctions) -> None:
        assert isinstance(extension.engine, LocalEngine)
        self._api = extension.management_app
        self._engine = extension.engine
        self._functions = functions
        self._ids: list[str] = []
        self._token = ""
        self._mark = CLOCK.moment
        self._is_setup = False

    async def send(self, exchange: Exchange) -> Exchange:
        """Send a recorded request, and return the response in the format of the recording."""
        method, path = exchange["send"]
        was_setup, self._is_setup = self._is_setup, exchange["case"].startswith("setup")
        if self._is_setup and not was_setup:
            CLOCK.moment += timedelta(seconds=10)
            self._mark = CLOCK.moment
        if "past the timer" in exchange["case"] or "past activity end" in exchange["case"]:
            self._functions.end_slow()
            await self._advance()
            await self._advance()
        wanted = exchange.get("answer")
        runs_on = isinstance(wanted, dict) and wanted.get("runtimeStatus") in {
            "Completed",
            "Failed",
        }
        self._functions.code = "activity"
        if "the code changed:" in exchange["case"]:
            self._functions.code = CHANGES[exchange["case"].split("changed: ")[1]]
        for _ in range(6):
            got = await self._request(exchange, method, path)
            await self._settle()
            if not runs_on or got["status"] != 202:
                break
            self._functions.end_slow()
            await self._advance()
        return got

    async def _request(self, exchange: Exchange, method: str, path: str) -> Exchange:
        target = self._expand(path)
        raw, _, query = target.removeprefix("http://localhost:7071").partition("?")
        body = (exchange.get("body") or "").encode()
        headers = {"host": "localhost:7071", "content-length": str(len(body))}
        headers |= {name.lower(): value for name, value in exchange.get("headers", {}).items()}
        if headers.get("x-ms-continuation-token", "") not in {"", "bogus", "null"}:
            headers["x-ms-continuation-token"] = self._token
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(raw),
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        call = asyncio.ensure_future(self._api(scope, receive, send))
        if "timeout=" in path:
            await self._settle()
            for _ in range(4):
                if not call.done():
                    await self._advance()
        await call
        start, end = sent
        return self._describe(start, end["body"].decode())

    def _expand(self, text: str) -> str:
        text = text.replace("~", BASE, 1)
        if text.endswith(("?Q", "&Q")) or "Q&" in text:
            query = "taskHub=OracleHub&connection=AzureWebJobsStorage&code=KEY"
            text = re.sub(r"(?<=[?&])Q(?=&|$)", query, text)
        text = re.sub(r"(?<=[?&])K$", "code=KEY", text)
        text = re.sub(r"<x\*(\d+)>", lambda found: "x" * int(found[1]), text)
        if "<id>" in text and self._ids:
            text = text.replace("<id>", self._ids[-1])
        hour = timedelta(hours=1)
        text = text.replace("To=<s>", f"To={self._mark + hour:%Y-%m-%dT%H:%M:%SZ}")
        return text.replace("<s>", f"{self._mark:%Y-%m-%dT%H:%M:%SZ}")

    def _describe(self, start: Any, body: str) -> Exchange:
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(headers["content-length"]) == len(body.encode())
        assert bool(body) == (headers.get("content-type") == "application/json; charset=utf-8")
        got: Exchange = {"status": start["status"]}
        for name in ("location", "retry-after"):
            if name in headers:
                got[name] = self._shorten(headers[name])
        if "x-ms-continuation-token" in headers:
            got["token"] = True
            self._token = headers["x-ms-continuation-token"]
        if body:
            value = json.loads(body)
            assert " " not in re.sub(r'"(?:[^"\\]|\\.)*"', "", body), "the JSON is not compact"
            got["answer"] = mask_inputs(self._simplify(value))
            if isinstance(value, dict) and "statusQueryGetUri" in value:
                self._ids.append(value["id"])
                if got["location"] == got["answer"]["location"]:
                    del got["location"], got["retry-after"]
        return got

    def _simplify(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if "statusQueryGetUri" in value:
                location = self._shorten(value["statusQueryGetUri"])
                return {"check status": self._simplify(value["id"]), "location": location}
            stack = {"StackTrace": "<stack>"} if "StackTrace" in value else {}
            return {name: self._simplify(inner, name) for name, inner in value.items()} | stack
        if isinstance(value, list):
            return [self._simplify(inner) for inner in value]
        return self._simplify_text(value, key) if isinstance(value, str) else value

    def _simplify_text(self, text: str, key: str) -> str:
        if key == "Details":
            return "<details>"
        if key in TIME_FIELDS and _TIMES[TIME_FIELDS[key]].fullmatch(text):
            return TIME_FIELDS[key]
        if " failed: " in text and "Non-Det" not in text:
            return "<failure>"
        return self._shorten(text)

    @staticmethod
    def _shorten(text: str) -> str:
        text = text.replace(BASE, "~")
        # The recorded links name the connection in full, as their host did not shorten it.
        text = text.replace("connection=Storage", "connection=AzureWebJobsStorage")
        query = "taskHub=OracleHub&connection=AzureWebJobsStorage&code=KEY"
        text = text.replace(query, "Q").replace("code=KEY", "K")
        text = re.sub(r"x{100,}", lambda found: f"<x*{len(found[0])}>", text)
        return _ID.sub("<id>", _DASHED_ID.sub("<id>", text))

    async def _settle(self) -> None:
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(0)
            idle = self._engine.is_quiet or self._functions.slow_calls
            quiet = quiet + 1 if idle else 0

    async def _advance(self) -> None:
        CLOCK.moment += timedelta(seconds=2)
        self._engine.clock_moved()
        await self._settle()


CLOCK = ManualClock()
TIME_FIELDS = {
    "createdTime": "<s>",
    "lastUpdatedTime": "<s>",
    "Timestamp": "<f>",
    "FireAt": "<f>",
    "ScheduledTime": "<o>",
}
CHANGES = {
    "timer first": "timer",
    "other activity": "other",
    "activity removed (waits only)": "waits",
    "sub-orchestration instead": "child",
    "timer inserted before the activity": "timer inserted",
}


@asynccontextmanager
async def replaying(folder: Path) -> AsyncIterator[Replay]:
    """Start an engine with an empty database, yield its `Replay`, and then stop the engine."""
    functions = ObservedFunctions()
    extension = DurableExtension(folder / "hub.db", functions, CLOCK, DurableOptions("OracleHub"))
    store = Store(folder / "hub.db")
    store.open()
    store.get_setting("system_key", "KEY")
    store.abandon()
    await extension.start()
    yield Replay(extension, functions)
    functions.end_slow()
    await extension.stop()


def expected(exchange: Exchange) -> Exchange:
    """Return the parts of a recorded response that the test compares."""
    names = ("status", "location", "retry-after", "token", "answer")
    return {name: mask_inputs(exchange[name]) for name in names if name in exchange}


def mask_inputs(value: Any) -> Any:
    """Return a response body in which two kinds of inputs are replaced with fixed values.

    These inputs differ between the recorded responses and those of the local host, for known
    reasons. If a start request has no body and no Content-Length, the Durable extension stores an
    empty text as the input, and the local host stores null. A C# function encodes the input of a
    sub-orchestration differently from a Python function.
    """
    if isinstance(value, list):
        return [mask_inputs(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    masked = {name: mask_inputs(inner) for name, inner in value.items()}
    for name in ("input", "Input"):
        if masked.get(name) == "":
            masked[name] = None
    if "parentInstanceId" in masked:
        masked["input"] = "<of a child>"
    return masked


def _differ(reason: str, *numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, reason)


DIFFERENCES = {
    **_differ("the ids are random, and Azure Storage sorts control characters differently", 96),
    **_differ("the local host runs the first episode at once", 148),
    **_differ("activities end in another order", 206, 207),
    **_differ("the C# function continues as new with a number", 208),
    **_differ("a setup request is missing in the record", 238, 345, 357, 369, 371),
    **_differ("C# functions match the names of events ignoring case, Python functions do not", 243),
    **_differ("a typed wait exists only in C#", 249),
    **_differ("this function uses `preserveUnprocessedEvents` of C#", 266, 267, 268, 269),
    **_differ("a rewound history has no GenericEvent", 353, 355),
    **_differ("there is no other task hub", 435, 436, *range(443, 449), 451, 452),
    **_differ("the rejected actions of changed code are not recorded", 455, 464, 467),
    **_differ("a status with history never fails", 458),
    **_differ("a purge never deletes a running instance", 475, 476, 477, 481),
    **_differ("this app has no entity functions", *range(524, 532)),
    **_differ("this app has no entity functions", *range(533, 539), 540, 543, 546),
}
"""The reasons why responses of the local host differ from the recorded responses.

The keys are the numbers of the recorded exchanges.
"""


@pytest.mark.parametrize("run", RUNS)
async def test_recorded_responses_are_returned(run: str, tmp_path: Path) -> None:
    differing = []
    async with replaying(tmp_path) as replay:
        for exchange in RUNS[run]:
            got = await replay.send(exchange)
            if exchange["n"] in DIFFERENCES:
                assert got != expected(exchange), (exchange["n"], "is not different any more")
            elif got != expected(exchange):
                differing.append((exchange["n"], exchange["case"], got, expected(exchange)))
    assert differing == []


def test_fidelity_page_explains_each_difference() -> None:
    table = FIDELITY.read_text(encoding="utf-8")
    assert [reason for reason in set(DIFFERENCES.values()) if reason not in table] == []
    total = sum(map(len, RUNS.values()))
    assert f"{total - len(DIFFERENCES)} of {total} agree" in table
