"""Test how `Client` and `AsyncClient` read the stream of a job, and how they resume it."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from loosely import (
    AsyncClient,
    Client,
    GatewayUnreachable,
    JobEvent,
    JobFailed,
    NotFound,
    Overloaded,
    Retry,
    StreamRestarted,
    UnexpectedAnswer,
)
from tests.unit.loosely.both_clients import Connect, SleepClock
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    ReceivedRequest,
    ScriptedGateway,
    ScriptedResponse,
    event_response,
    job_document,
    json_response,
    problem_response,
)

EVENTS = f"/v1/jobs/{JOB_ID}/events"
ACCEPTED = json_response(202, job_document("queued"))
PARIS, IN_FRANCE = ("chunk", "1-1", "Paris"), ("chunk", "1-2", " in France")
AGAIN, BERLIN = ("attempt", "2-0", {"attempt": 2}), ("chunk", "2-1", "Berlin")
ENDED = ("end", None, job_document("succeeded", result="Paris in France"))


def _ids(events: list[JobEvent]) -> list[str | None]:
    return [event.id for event in events]


class TestStream:
    def test_events_and_result(self, gateway: ScriptedGateway, connect: Connect) -> None:
        progress = ("progress", "1-3", {"fraction": 1.0, "message": None})
        gateway.responses = [ACCEPTED, event_response(PARIS, IN_FRANCE, progress, ENDED)]
        stream = connect(gateway.url).stream(b"Where?", "chat", idempotency_key="mine")
        assert stream.events() == [
            JobEvent("chunk", "Paris", "1-1"),
            JobEvent("chunk", " in France", "1-2"),
            JobEvent("progress", {"fraction": 1.0, "message": None}, "1-3"),
        ]
        assert stream.result == "Paris in France"
        assert (stream.job.id, stream.job.status) == (JOB_ID, "succeeded")
        submitted, followed = gateway.requests
        assert (submitted.method, submitted.body) == ("POST", b"Where?")
        assert submitted.headers["prefer"] == "respond-async, stream"
        assert submitted.headers["idempotency-key"] == "mine"
        assert (followed.method, followed.target) == ("GET", EVENTS)
        assert followed.headers["accept"] == "text/event-stream"
        assert "last-event-id" not in followed.headers

    def test_large_result_is_fetched(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.responses = [
            event_response(("end", None, job_document("succeeded"))),
            json_response(200, {"large": True}),
        ]
        stream = connect(gateway.url).follow(JOB_ID)
        assert stream.events() == []
        assert stream.result == {"large": True}

    def test_failed_job_raises(self, gateway: ScriptedGateway, connect: Connect) -> None:
        error = {"code": "inference-failed", "message": "no"}
        gateway.responses = [
            event_response(PARIS, ("end", None, job_document("failed", error=error)))
        ]
        stream = connect(gateway.url).follow(JOB_ID)
        with pytest.raises(JobFailed, match="inference-failed"):
            stream.events()
        assert stream.job.status == "failed"

    def test_no_result_before_the_end(self, gateway: ScriptedGateway, connect: Connect) -> None:
        stream = connect(gateway.url).follow(JOB_ID)
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = stream.result

    def test_leaving_closes_the_connection(self, gateway: ScriptedGateway) -> None:
        gateway.responses = [event_response(PARIS, IN_FRANCE, ENDED)]
        with Client(gateway.url) as client, client.follow(JOB_ID) as stream:
            assert next(stream).data == "Paris"
            stream.close()
            assert list(stream) == []
            assert stream.last_event_id == "1-1"

    def test_closed_streams_free_their_turn(self, gateway: ScriptedGateway) -> None:
        gateway.responses = [event_response(PARIS, ENDED)]

        async def follow_many() -> None:
            async with AsyncClient(gateway.url) as client:
                for _ in range(120):
                    async with client.follow(JOB_ID) as stream:
                        assert (await anext(stream)).data == "Paris"

        asyncio.run(asyncio.wait_for(follow_many(), 30))


class TestResumption:
    @pytest.mark.parametrize(
        "broken",
        [
            event_response(PARIS, is_cut=True),
            event_response(PARIS),
            event_response(PARIS, ("resume", "1-1", {"after": "1-1"})),
            event_response(PARIS, ("behind", "1-1", {"after": "1-1"})),
        ],
        ids=["cut", "early end", "resume", "behind"],
    )
    def test_continues_after_a_break(
        self, gateway: ScriptedGateway, connect: Connect, broken: ScriptedResponse
    ) -> None:
        gateway.responses = [broken, HANG_UP, event_response(PARIS, IN_FRANCE, ENDED)]
        stream = connect(gateway.url).follow(JOB_ID)
        assert _ids(stream.events()) == ["1-1", "1-2"]
        asked = [request.headers.get("last-event-id") for request in gateway.requests]
        assert asked == [None, "1-1", "1-1"]
        assert stream.result == "Paris in France"

    def test_orderly_end_costs_no_pause(
        self, gateway: ScriptedGateway, connect: Connect, clock: SleepClock
    ) -> None:
        resume = event_response(PARIS, ("resume", "1-1", {"after": "1-1"}))
        gateway.responses = [resume, event_response(IN_FRANCE, ENDED)]
        connect(gateway.url).follow(JOB_ID).events()
        assert clock.slept == []

    def test_after_continues_another_stream(
        self, gateway: ScriptedGateway, connect: Connect
    ) -> None:
        gateway.responses = [event_response(PARIS, IN_FRANCE, ENDED)]
        stream = connect(gateway.url).follow(JOB_ID, after="1-1")
        assert _ids(stream.events()) == ["1-2"]
        assert gateway.requests[0].headers["last-event-id"] == "1-1"

    @pytest.mark.parametrize("after", ["", "1", "1-", "a-b", "1-2-3"])
    def test_after_must_be_an_id(
        self, gateway: ScriptedGateway, connect: Connect, after: str
    ) -> None:
        with pytest.raises(ValueError, match="the id of an event"):
            connect(gateway.url).follow(JOB_ID, after=after)

    def test_breaks_without_events_end(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.responses = [event_response(is_cut=True)]
        stream = connect(gateway.url, retry=Retry(total_seconds=5)).follow(JOB_ID)
        with pytest.raises(GatewayUnreachable, match=JOB_ID):
            stream.events()
        assert len(gateway.requests) > 3

    def test_breaks_with_events_do_not(self, gateway: ScriptedGateway, connect: Connect) -> None:
        parts = [event_response(("chunk", f"1-{n}", n), is_cut=True) for n in range(1, 50)]
        gateway.responses = [*parts, event_response(ENDED)]
        stream = connect(gateway.url, retry=Retry(total_seconds=1)).follow(JOB_ID)
        assert [event.data for event in stream.events()] == list(range(1, 50))

    @pytest.mark.parametrize("seed", range(8))
    def test_random_breaks_lose_and_repeat_nothing(
        self, gateway: ScriptedGateway, connect: Connect, seed: int
    ) -> None:
        random = Random(seed)
        first = [("chunk", f"1-{number}", "ä" * number) for number in range(1, 20)]
        second = [("chunk", f"2-{number}", number) for number in range(1, 20)]
        events = [*first, AGAIN, *second]
        ids = [event_id for _, event_id, _ in events]

        def respond(request: ReceivedRequest) -> ScriptedResponse:
            last = request.headers.get("last-event-id")
            start = 0 if last is None else ids.index(last) + 1
            # A gateway that repeats an event is no reason to show it twice.
            whole = event_response(*events[max(0, start - random.randrange(3)) :], ENDED)
            match random.randrange(6):
                case 0:
                    return HANG_UP
                case 1:
                    return problem_response(503, "unavailable", "not now")
                case 2:
                    return event_response(*events[start : start + 4], ("behind", None, {}))
                case _:
                    cut = whole.body[: random.randrange(1200)]
                    return replace(whole, body=cut, is_cut=len(cut) < len(whole.body))

        gateway.answer = respond
        stream = connect(gateway.url, retry=Retry(total_seconds=3600)).follow(JOB_ID)
        assert [(each.kind, each.id, each.data) for each in stream.events()] == events
        assert len(gateway.requests) > 3

    def test_limit_is_waited_for(
        self, gateway: ScriptedGateway, connect: Connect, clock: SleepClock
    ) -> None:
        refusal = problem_response(429, "too-many-streams", "too many")
        gateway.responses = [
            ScriptedResponse(429, refusal.body, {**refusal.headers, "retry-after": "7"}),
            event_response(ENDED),
        ]
        connect(gateway.url).follow(JOB_ID).events()
        assert sum(clock.slept) >= 7

    @pytest.mark.parametrize(
        ("response", "error"),
        [
            (problem_response(404, "unknown-job", "no"), NotFound),
            (problem_response(429, "too-many-streams", "too many"), Overloaded),
            (json_response(200, job_document("running")), UnexpectedAnswer),
            (event_response(("chunk", "x", "Paris")), UnexpectedAnswer),
            (event_response(("end", None, "no job")), UnexpectedAnswer),
        ],
    )
    def test_refusal_is_raised(
        self,
        gateway: ScriptedGateway,
        connect: Connect,
        response: ScriptedResponse,
        error: type[Exception],
    ) -> None:
        gateway.responses = [response]
        with pytest.raises(error):
            connect(gateway.url, retry=Retry(total_seconds=0)).follow(JOB_ID).events()


class TestAttempts:
    def test_attempt_is_told(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.responses = [event_response(PARIS, AGAIN, BERLIN, PARIS, ENDED)]
        events = connect(gateway.url).follow(JOB_ID).events()
        assert [(event.kind, event.attempt) for event in events] == [
            ("chunk", 1),
            ("attempt", 2),
            ("chunk", 2),
        ]

    def test_chunks_stop_at_another_attempt(
        self, gateway: ScriptedGateway, connect: Connect
    ) -> None:
        gateway.responses = [event_response(PARIS, AGAIN, BERLIN, ENDED)]
        stream = connect(gateway.url).follow(JOB_ID)
        with pytest.raises(StreamRestarted, match="runs again"):
            stream.chunks()
        assert stream.chunks() == ["Berlin"]

    def test_same_attempt_can_begin_anew(self, gateway: ScriptedGateway, connect: Connect) -> None:
        again = ("attempt", "1-3", {"attempt": 1})
        gateway.responses = [event_response(PARIS, IN_FRANCE, again, ("chunk", "1-4", "B"), ENDED)]
        stream = connect(gateway.url).follow(JOB_ID)
        with pytest.raises(StreamRestarted):
            stream.chunks()
        assert stream.chunks() == ["B"]

    def test_chunks_ignore_an_attempt_before(
        self, gateway: ScriptedGateway, connect: Connect
    ) -> None:
        gateway.responses = [event_response(AGAIN, BERLIN, ENDED)]
        assert connect(gateway.url).follow(JOB_ID).chunks() == ["Berlin"]
