"""Test `map` of both clients: order, concurrency, memory, retries and errors."""

import asyncio
import io
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from loosely import (
    AccessDenied,
    AsyncClient,
    Client,
    GatewayFailure,
    GatewayUnreachable,
    InvalidRequest,
    JobFailed,
    NotFound,
    Outcome,
    Retry,
    UnexpectedAnswer,
)
from loosely.client.mapping import run_each
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    ReceivedRequest,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

INPUTS = [b"%d" % number for number in range(40)]
FAST = Retry(first_seconds=0.001, longest_seconds=0.01)


def echo(request: ReceivedRequest) -> ScriptedResponse:
    return json_response(200, job_document("succeeded", result=request.body.decode()))


def refuse(status: int, code: str) -> ScriptedResponse:
    return problem_response(status, code, "no", retryable=status == 503)


def failed(*, retryable: bool) -> ScriptedResponse:
    error = {"code": "inference-failed", "message": "no", "retryable": retryable}
    return json_response(200, job_document("failed", error=error))


class FailingFirst:
    """Answers the first `times` requests with an input with a failure, and then echoes it."""

    def __init__(self, failure: ScriptedResponse, body: bytes, times: int) -> None:
        self.failure, self.body, self.times = failure, body, times

    def __call__(self, request: ReceivedRequest) -> ScriptedResponse:
        if request.body == self.body and self.times > 0:
            self.times -= 1
            return self.failure
        return echo(request)


class Meter:
    """Counts the requests that are being answered, each only when `most` of them are open."""

    def __init__(self, most: int) -> None:
        self._barrier = threading.Barrier(most)
        self._lock = threading.Lock()
        self.open = self.most = 0

    def __call__(self, request: ReceivedRequest) -> ScriptedResponse:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        self._barrier.wait(10)
        with self._lock:
            self.open -= 1
        return echo(request)


class FirstAfter:
    """Answers the request with the input `0` when the one with the input `body` has come."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._has_come = threading.Event()

    def __call__(self, request: ReceivedRequest) -> ScriptedResponse:
        if request.body == self._body:
            self._has_come.set()
        if request.body == b"0":
            assert self._has_come.wait(10)
        return echo(request)


def results(outcomes: list[Outcome]) -> dict[int, Any]:
    return {outcome.index: outcome.error or outcome.result for outcome in outcomes}


class TestOrder:
    def test_every_input_has_one_outcome(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.answer = echo
        outcomes = connect(gateway.url).map("noop", INPUTS, media_type="text/plain")
        assert results(outcomes) == {index: str(index) for index in range(40)}
        assert all(outcome.source == INPUTS[outcome.index] for outcome in outcomes)

    def test_first_to_end_comes_first(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.answer = FirstAfter(b"39")
        outcomes = connect(gateway.url).map("noop", INPUTS, media_type="text/plain", concurrency=2)
        assert [outcome.index for outcome in outcomes].index(0) >= 38

    def test_in_order_keeps_order(self, gateway: ScriptedGateway, connect: Connect) -> None:
        # Of the inputs after the first, only as many as fit into the window are taken.
        gateway.answer = FirstAfter(b"15")
        outcomes = connect(gateway.url).map(
            "noop", INPUTS, media_type="text/plain", in_order=True, concurrency=8
        )
        assert [outcome.index for outcome in outcomes] == list(range(40))

    def test_no_input_has_no_outcome(self, gateway: ScriptedGateway, connect: Connect) -> None:
        assert connect(gateway.url).map("noop", []) == []
        assert gateway.requests == []


class TestConcurrency:
    def test_is_what_was_asked_for(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.answer = meter = Meter(8)
        outcomes = connect(gateway.url).map("noop", INPUTS, media_type="text/plain", concurrency=8)
        assert len(outcomes) == 40
        assert meter.most == 8

    @pytest.mark.parametrize("in_order", [False, True])
    async def test_no_more_run_at_once(self, *, in_order: bool) -> None:
        started, may_end = 0, asyncio.Event()

        async def run(index: int, _: int) -> int:
            nonlocal started
            started += 1
            await may_end.wait()
            return index

        async with aclosing(run_each(run, range(40), 8, in_order=in_order)) as found:
            first = asyncio.ensure_future(anext(found))
            for _ in range(200):
                await asyncio.sleep(0)
            assert started == 8
            may_end.set()
            await first

    @pytest.mark.parametrize("concurrency", [0, 101])
    def test_out_of_range_is_refused(self, connect: Connect, concurrency: int) -> None:
        with pytest.raises(ValueError, match="concurrency: expected 1 to 100"):
            connect("http://127.0.0.1:1").map("noop", INPUTS, concurrency=concurrency)

    @pytest.mark.parametrize("in_order", [False, True])
    def test_endless_inputs_are_taken_as_needed(
        self, gateway: ScriptedGateway, *, in_order: bool
    ) -> None:
        gateway.answer = echo
        taken = 0

        def endless() -> Iterator[bytes]:
            nonlocal taken
            for taken in count(1):
                yield b"%d" % taken

        with Client(gateway.url) as client:
            outcomes = client.map("noop", endless(), media_type="text/plain", in_order=in_order)
            for number, _ in zip(range(200), outcomes, strict=False):
                assert taken <= number + 65
            outcomes.close()  # type: ignore[attr-defined] # it is a generator
        assert taken <= 265

    async def test_async_inputs_do_not_delay_outcomes(self, gateway: ScriptedGateway) -> None:
        gateway.answer = echo
        has_come = asyncio.Event()

        async def inputs() -> AsyncIterator[bytes]:
            yield b"first"
            async with asyncio.timeout(10):
                await has_come.wait()
            yield b"second"

        async with AsyncClient(gateway.url) as client:
            found = []
            async for outcome in client.map("noop", inputs(), media_type="text/plain"):
                found.append(outcome.result)
                has_come.set()
        assert found == ["first", "second"]

    async def test_stopped_iteration_stops_requests(self, gateway: ScriptedGateway) -> None:
        gateway.answer = echo
        async with AsyncClient(gateway.url) as client:
            outcomes = client.map("noop", (b"x" for _ in count()), media_type="text/plain")
            async with aclosing(outcomes):
                await anext(outcomes)
            sent = len(gateway.requests)
            await client.map("noop", [b"last"], media_type="text/plain").__anext__()
        assert len(gateway.requests) <= sent + 32

    def test_blocking_iteration_works_in_loop(self, gateway: ScriptedGateway) -> None:
        gateway.answer = echo

        async def iterate() -> int:
            with Client(gateway.url) as client:
                return len(list(client.map("noop", INPUTS, media_type="text/plain")))

        assert asyncio.run(iterate()) == 40

    def test_inputs_are_iterated_in_callers_thread(self, gateway: ScriptedGateway) -> None:
        gateway.answer = echo
        threads = set()

        def inputs() -> Iterator[bytes]:
            for each in INPUTS:
                threads.add(threading.get_ident())
                yield each

        with Client(gateway.url) as client:
            assert len(list(client.map("noop", inputs(), media_type="text/plain"))) == 40
        assert threads == {threading.get_ident()}


class TestErrors:
    @pytest.mark.parametrize(
        ("failure", "kind"),
        [
            (refuse(415, "unsupported-media-type"), InvalidRequest),
            (refuse(500, "internal-error"), GatewayFailure),
            (ScriptedResponse(413, b"<html>a proxy"), UnexpectedAnswer),
            (failed(retryable=False), JobFailed),
        ],
    )
    def test_of_one_input_does_not_end_the_rest(
        self,
        gateway: ScriptedGateway,
        connect: Connect,
        failure: ScriptedResponse,
        kind: type[Exception],
    ) -> None:
        gateway.answer = FailingFirst(failure, b"39", 1)
        found = results(connect(gateway.url).map("noop", INPUTS, media_type="text/plain"))
        assert isinstance(found.pop(39), kind)
        assert found == {index: str(index) for index in range(39)}

    def test_unreadable_file_is_an_outcome(
        self, gateway: ScriptedGateway, connect: Connect, tmp_path: Path
    ) -> None:
        gateway.answer = echo
        inputs = [b"1", tmp_path / "missing", b"3"]
        found = results(connect(gateway.url).map("noop", inputs, media_type="text/plain"))
        assert isinstance(found.pop(1), FileNotFoundError)
        assert found == {0: "1", 2: "3"}

    def test_result_raises_the_error(self) -> None:
        with pytest.raises(ValueError, match="no JSON"):
            _ = Outcome(0, b"", None, ValueError("no JSON")).result

    @pytest.mark.parametrize(
        ("response", "kind"),
        [
            (refuse(404, "unknown-model"), NotFound),
            (refuse(401, "unauthenticated"), AccessDenied),
            (refuse(500, "internal-error"), GatewayFailure),
            (HANG_UP, GatewayUnreachable),
        ],
    )
    def test_of_every_input_is_raised_once(
        self,
        gateway: ScriptedGateway,
        connect: Connect,
        response: ScriptedResponse,
        kind: type[Exception],
    ) -> None:
        gateway.responses = [response]
        with pytest.raises(kind):
            connect(gateway.url, retry=Retry(total_seconds=0)).map("noop", INPUTS)
        assert len(gateway.requests) <= 32

    def test_of_inputs_comes_after_earlier_outcomes(self, gateway: ScriptedGateway) -> None:
        gateway.answer = echo

        def inputs() -> Iterator[bytes]:
            yield from INPUTS[:5]
            raise LookupError("the table ends here")

        with Client(gateway.url) as client:
            outcomes = client.map("noop", inputs(), media_type="text/plain")
            assert {next(outcomes).index for _ in range(5)} == set(range(5))
            with pytest.raises(LookupError, match="the table ends"):
                next(outcomes)


class TestRetries:
    @pytest.mark.parametrize(
        "failure", [HANG_UP, refuse(503, "unavailable"), refuse(429, "rate-limited")]
    )
    def test_failed_request_keeps_key(
        self, gateway: ScriptedGateway, failure: ScriptedResponse
    ) -> None:
        gateway.answer = FailingFirst(failure, b"7", 3)
        with Client(gateway.url, retry=FAST) as client:
            found = results(list(client.map("noop", INPUTS, media_type="text/plain")))
        assert found == {index: str(index) for index in range(40)}
        keys = [each.headers["idempotency-key"] for each in gateway.requests if each.body == b"7"]
        assert (len(keys), len(set(keys))) == (4, 1)

    @pytest.mark.parametrize("seed", range(3))
    def test_random_failures_lose_nothing(self, gateway: ScriptedGateway, seed: int) -> None:
        draw, lock = Random(seed), threading.Lock()
        jobs: dict[bytes, set[str]] = defaultdict(set)
        failures = [HANG_UP, refuse(503, "unavailable"), refuse(429, "rate-limited")]

        def answer(request: ReceivedRequest) -> ScriptedResponse:
            with lock:
                jobs[request.body].add(request.headers["idempotency-key"])
                if draw.random() < 0.4:
                    return draw.choice(failures)
                return replace(echo(request), is_cut=draw.random() < 0.1)

        gateway.answer = answer
        with Client(gateway.url, retry=FAST) as client:
            found = results(list(client.map("noop", INPUTS, media_type="text/plain")))
        assert found == {index: str(index) for index in range(40)}
        assert {len(keys) for keys in jobs.values()} == {1}

    def test_failed_job_is_submitted_again(
        self, gateway: ScriptedGateway, connect: Connect
    ) -> None:
        gateway.answer = FailingFirst(failed(retryable=True), b"7", 1)
        found = results(
            connect(gateway.url, retry=FAST).map("noop", INPUTS, media_type="text/plain")
        )
        assert found == {index: str(index) for index in range(40)}
        keys = [each.headers["idempotency-key"] for each in gateway.requests if each.body == b"7"]
        assert (len(keys), len(set(keys))) == (2, 2)

    def test_job_is_given_up_after_retries(self, gateway: ScriptedGateway) -> None:
        gateway.answer = FailingFirst(failed(retryable=True), b"7", 99)
        with Client(gateway.url) as client:
            found = list(client.map("noop", INPUTS[7:9], media_type="text/plain", retries=0))
        assert isinstance(results(found)[0], JobFailed)
        assert len(gateway.requests) == 2

    def test_unlucky_input_is_tried_while_others_end(self, gateway: ScriptedGateway) -> None:
        first, others = FailingFirst(refuse(429, "rate-limited"), b"0", 1), threading.Semaphore(0)

        def answer(request: ReceivedRequest) -> ScriptedResponse:
            if request.body == b"0":
                # Of more requests than run at once, one has ended.
                assert all(others.acquire(timeout=10) for _ in range(33))
                others.release(33)
                return first(request)
            others.release()
            return echo(request)

        gateway.answer = answer
        with Client(gateway.url, retry=Retry(total_seconds=0)) as client:
            found = results(list(client.map("noop", INPUTS, media_type="text/plain")))
        assert found == {index: str(index) for index in range(40)}


class TestProgress:
    def test_is_not_drawn_without_terminal(
        self, gateway: ScriptedGateway, connect: Connect, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gateway.answer = echo
        connect(gateway.url).map("noop", INPUTS, media_type="text/plain")
        assert capsys.readouterr() == ("", "")

    def test_counts_all_and_failed(
        self, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway.answer = FailingFirst(failed(retryable=False), b"7", 1)

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stderr = Terminal()
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")
        with (
            Client(gateway.url) as client,
            closing(
                client.map("noop", INPUTS, media_type="text/plain")  # type: ignore[type-var]
            ) as outcomes,
        ):
            for _ in outcomes:
                pass
        assert "40/40" in stderr.getvalue()
        assert "1 failed" in stderr.getvalue()
