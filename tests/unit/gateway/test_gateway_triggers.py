"""What the triggers other than HTTP do, the HTTP adapter, and what Functions indexes."""

import asyncio
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from azure.functions.servicebus import ServiceBusMessage

from contract.catalogue import Catalogue
from contract.messages import encode_request
from contract.names import low_priority_queue
from gateway.asgi import serve
from gateway.errors import Unavailable
from gateway.storage.housekeeping import purge
from tests.unit.gateway.conftest import World
from tests.unit.gateway.test_gateway_settings import ENVIRON

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

FUNCTIONS = Path(__file__).parents[3] / "functions"


def letter(body: bytes, job_id: str = "") -> ServiceBusMessage:
    return ServiceBusMessage(
        body=body,
        message_id=job_id or "a/b ?",
        correlation_id=job_id or None,
        application_properties={"DeadLetterReason": "MaxDeliveryCountExceeded"},
        user_properties={},
        delivery_count=3,
        enqueued_time_utc=datetime(2026, 3, 1, 12, 0),  # noqa: DTZ001 - as Functions hands it over
    )


async def test_a_dead_letter_fails_its_job_and_is_kept(world: World) -> None:
    job_id = await world.accept()
    message = letter(encode_request(world.queues.request()), job_id)
    await world.services.dead_letters.run(message, "noop", world.durable)
    job = await world.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "dead-lettered")
    assert job["attempt"] == 3
    assert job["error"]["retryable"] is False
    assert f"dead-letters/noop/{job_id}" in world.payloads.blobs
    # The trigger delivers at least once.
    await world.services.dead_letters.run(message, "noop", world.durable)
    assert await world.job(job_id) == job


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]"])
async def test_a_dead_letter_that_is_no_request_is_kept(world: World, body: bytes) -> None:
    await world.services.dead_letters.run(letter(body), "noop", world.durable)
    (kept,) = world.payloads.blobs
    assert kept.startswith("dead-letters/noop/a_b__-")


async def test_a_dead_letter_stays_while_it_cannot_be_kept(world: World) -> None:
    job_id = await world.accept()
    message = letter(encode_request(world.queues.request()), job_id)
    world.payloads.is_down = True
    with pytest.raises(Unavailable):
        await world.services.dead_letters.run(message, "noop", world.durable)
    world.payloads.is_down, world.durable.is_down = False, True
    with pytest.raises(Unavailable):
        await world.services.dead_letters.run(message, "noop", world.durable)


async def test_a_dead_letter_wakes_the_waiting_caller(world: World) -> None:
    waiting = asyncio.create_task(world.http.post("/v1/models/noop/jobs", content=b"x"))
    await world.queues.has_sent.wait()
    request = world.queues.request()
    message = letter(encode_request(request), request.job_id)
    await world.services.dead_letters.run(message, "noop", world.durable)
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (500, "dead-lettered")


async def test_housekeeping_deletes_what_is_past_retention(world: World) -> None:
    old, running = await world.accept(), await world.accept()
    await world.http.delete(f"/v1/jobs/{old}")
    # It could have ended as late as its model's longest deadline allows: an hour.
    world.clock.now += timedelta(hours=73)
    assert await purge(world.durable, world.services) == 0
    world.clock.now += timedelta(seconds=1)
    assert await purge(world.durable, world.services) == 1
    assert list(world.durable.runs) == [running]


async def test_the_activity_sends_the_same_message_again(world: World) -> None:
    await world.accept()
    (run,) = world.durable.runs.values()
    assert await world.services.enqueue.run(run.input) is None
    (_, first), (_, second) = world.queues.sent
    assert first.message_id == second.message_id


async def test_the_activity_sends_nothing_after_the_deadline(world: World) -> None:
    await world.accept()
    (run,) = world.durable.runs.values()
    world.clock.now += timedelta(seconds=60)
    assert await world.services.enqueue.run(run.input) is None
    assert len(world.queues.sent) == 1


async def test_the_queue_keeps_a_request_no_shorter_than_its_deadline(world: World) -> None:
    await world.accept(deadline_seconds=1)
    (run,) = world.durable.runs.values()
    world.clock.now += timedelta(milliseconds=10)
    await world.services.enqueue.run(run.input)
    assert [message.time_to_live for _, message in world.queues.sent] == [timedelta(seconds=1)] * 2


def trigger(method: str, url: str, body: bytes = b"", **headers: str) -> func.HttpRequest:
    return func.HttpRequest(method, url, headers=headers, body=body)


async def app_of(world: World) -> Any:
    transport: Any = world.http._transport
    return transport.app


async def test_functions_requests_reach_the_app(world: World) -> None:
    answer = await serve(
        await app_of(world),
        trigger(
            "POST",
            "https://host:7071/v1/models/noop/jobs?parameters=%7B%22a%22:1%7D",
            b"\0\1",
            **{"Content-Type": "application/octet-stream", "Prefer": "respond-async"},
        ),
        world.durable,
    )
    assert answer.status_code == 202
    assert answer.mimetype == "application/json"
    assert answer.headers["location"].startswith("/v1/jobs/")
    assert "content-length" not in answer.headers
    assert world.queues.request().parameters == {"a": 1}


class App:
    """An ASGI app that does one thing."""

    def __init__(self, *messages: dict[str, Any], error: Exception | None = None) -> None:
        self.messages = messages
        self.error = error
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        assert (await receive())["more_body"] is False
        for message in self.messages:
            await send(message)
        if self.error:
            raise self.error
        assert (await receive())["type"] == "http.disconnect"


START = {
    "type": "http.response.start",
    "status": 207,
    "headers": [(b"vary", b"a"), (b"vary", b"b"), (b"content-length", b"2")],
}


async def test_chunks_and_repeated_headers_are_joined(world: World) -> None:
    app = App(
        START,
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    )
    url = "http://h/a%20b%2F%C3%A9?x=%20"
    answer = await serve(app, trigger("get", url, X="é"), world.durable)
    assert (answer.status_code, answer.get_body()) == (207, b"ab")
    assert dict(answer.headers) == {"vary": "a, b"}
    assert app.scope["method"] == "GET"
    assert app.scope["path"] == "/a b/é"
    assert app.scope["raw_path"] == b"/a%20b%2F%C3%A9"
    assert app.scope["query_string"] == b"x=%20"
    assert app.scope["headers"] == [(b"x", "é".encode("latin-1"))]
    assert app.scope["durable"] is world.durable


async def test_an_answered_defect_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    app = App(START, {"type": "http.response.body"}, error=ValueError("why"))
    answer = await serve(app, trigger("GET", "http://h/"), world.durable)
    assert answer.status_code == 207
    assert "why" in caplog.text


async def test_an_unanswered_defect_is_the_hosts(world: World) -> None:
    with pytest.raises(ValueError, match="why"):
        await serve(App(error=ValueError("why")), trigger("GET", "http://h/"), world.durable)


INDEX = """
import function_app
for function in function_app.app.get_functions():
    bindings = function.get_bindings()
    print(function.get_function_name(), *sorted(f"{b.type}:{b.name}" for b in bindings))
"""


def test_what_functions_indexes() -> None:
    indexed = subprocess.run(
        [sys.executable, "-c", INDEX],
        cwd=FUNCTIONS,
        env=dict(ENVIRON),
        capture_output=True,
        text=True,
        check=True,
    )
    assert indexed.stdout.splitlines() == [
        "http durableClient:client http:$return httpTrigger:req",
        "job orchestrationTrigger:context",
        "enqueue activityTrigger:ticket",
        "conclude activityTrigger:asked",
        "webhook orchestrationTrigger:context",
        "announce_webhook activityTrigger:job durableClient:client",
        "deliver_webhook activityTrigger:job durableClient:client",
        "deliver_reply activityTrigger:told",
        *(
            f"dead_letters_{queue} durableClient:client serviceBusTrigger:message"
            for model in Catalogue.load().values()
            for queue in (model.queue, low_priority_queue(model.queue))
        ),
        "watch timerTrigger:timer",
        "purge durableClient:client timerTrigger:timer",
    ]


def test_a_wrong_setting_stops_the_start() -> None:
    started = subprocess.run(
        [sys.executable, "-c", "import function_app"],
        cwd=FUNCTIONS,
        env={**ENVIRON, "RETENTION_HOURS": "never"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert "RETENTION_HOURS: expected a whole number" in started.stderr
