"""Test the triggers, the ASGI adapter, and the functions that the Function App registers."""

import asyncio
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from azure.functions.servicebus import ServiceBusMessage

from contract.catalogue import Catalogue
from contract.messages import ReplyUrl, encode_request
from contract.names import low_priority_queue
from gateway import housekeeping
from gateway.asgi import serve
from gateway.errors import Unavailable
from tests.unit.gateway.conftest import ENVIRON, RunningGateway

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


async def test_dead_letter_is_stored_and_its_job_fails(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    message = letter(encode_request(gateway.queues.request()), job_id)
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    job = await gateway.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "dead-lettered")
    assert job["attempt"] == 3
    assert job["error"]["retryable"] is False
    assert f"dead-letters/noop/{job_id}" in gateway.payloads.blobs
    # Functions may run the trigger more than once for a message.
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    assert await gateway.job(job_id) == job


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]"])
async def test_unreadable_dead_letter_is_stored(gateway: RunningGateway, body: bytes) -> None:
    await gateway.services.dead_letters.run(letter(body), "noop", gateway.durable)
    (kept,) = gateway.payloads.blobs
    assert kept.startswith("dead-letters/noop/a_b__-")


async def test_trigger_fails_while_the_letter_cannot_be_stored(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    message = letter(encode_request(gateway.queues.request()), job_id)
    gateway.payloads.is_down = True
    with pytest.raises(Unavailable):
        await gateway.services.dead_letters.run(message, "noop", gateway.durable)


async def test_dead_letter_ends_its_job_while_durable_is_silent(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    message = letter(encode_request(gateway.queues.request()), job_id)
    gateway.durable.is_down = True
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    gateway.durable.is_down = False
    assert (await gateway.job(job_id))["error"]["code"] == "dead-lettered"


async def test_letter_without_an_id_is_stored_by_its_sequence_number(
    gateway: RunningGateway,
) -> None:
    message = ServiceBusMessage(
        body=b"{",
        message_id=None,  # type: ignore[arg-type]  # as the binding of a message without an id
        sequence_number=7,
        application_properties={},
        user_properties={},
        delivery_count=3,
    )
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    assert list(gateway.payloads.blobs) == ["dead-letters/noop/sequence-number-7"]


@pytest.mark.parametrize("token", ["forged", ""])
async def test_letter_with_a_foreign_reply_url_ends_no_job(
    gateway: RunningGateway, token: str
) -> None:
    job_id = await gateway.accept()
    url = f"http://gateway.test/v1/jobs/{job_id}/reply?expires=9999999999&token={token}"
    forged = replace(gateway.queues.request(), reply_to=ReplyUrl(url))
    message = letter(encode_request(forged), job_id)
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    assert (await gateway.job(job_id))["status"] == "queued"
    assert f"dead-letters/noop/{job_id}" in gateway.payloads.blobs
    answer = await gateway.http.post(f"/v1/admin/dead-letters/noop/{job_id}/redrive")
    assert (answer.status_code, answer.json()["code"]) == (409, "not-redrivable")
    assert len(gateway.queues.sent) == 1


async def test_unreadable_letter_with_the_id_of_a_job_ends_no_job(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.services.dead_letters.run(letter(b"garbage", job_id), "noop", gateway.durable)
    assert (await gateway.job(job_id))["status"] == "queued"


async def test_letter_of_an_unstarted_job_records_its_failure(gateway: RunningGateway) -> None:
    gateway.durable.is_down = True
    assert (await gateway.http.post("/v1/models/noop/jobs", content=b"x")).status_code == 503
    gateway.durable.is_down = False
    request = gateway.queues.request()
    message = letter(encode_request(request), request.job_id)
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    found = await gateway.services.outcomes.find(request.job_id)
    assert found is not None
    assert found.status == "failed"


async def test_dead_letter_wakes_the_waiting_caller(gateway: RunningGateway) -> None:
    waiting = asyncio.create_task(gateway.http.post("/v1/models/noop/jobs", content=b"x"))
    await gateway.queues.has_sent.wait()
    request = gateway.queues.request()
    message = letter(encode_request(request), request.job_id)
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (500, "dead-lettered")


async def test_housekeeping_deletes_old_histories(gateway: RunningGateway) -> None:
    old, running = await gateway.accept(), await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{old}")
    # The retention is 72 hours after the longest deadline, which is one hour.
    gateway.clock.now += timedelta(hours=73)
    assert (await housekeeping.run(gateway.durable, gateway.services))["histories"] == 0
    gateway.clock.now += timedelta(seconds=1)
    assert (await housekeeping.run(gateway.durable, gateway.services))["histories"] == 1
    assert list(gateway.durable.runs) == [running]


async def accept_unsent(gateway: RunningGateway, **options: Any) -> str:
    """Submit a job while the queue is unavailable. Return the input of the job's orchestration.

    `options` are arguments of `RunningGateway.accept`.
    """
    gateway.queues.is_down = True
    job_id = await gateway.accept(**options)
    gateway.queues.is_down = False
    return gateway.durable.runs[job_id].input


async def test_repeated_enqueue_sends_the_same_message_id(gateway: RunningGateway) -> None:
    ticket = await accept_unsent(gateway)
    assert await gateway.services.creator.enqueue(ticket) is None
    assert await gateway.services.creator.enqueue(ticket) is None
    (_, first), (_, second) = gateway.queues.sent
    assert first.message_id == second.message_id


async def test_enqueue_sends_nothing_after_the_deadline(gateway: RunningGateway) -> None:
    ticket = await accept_unsent(gateway)
    gateway.clock.now += timedelta(seconds=60)
    assert await gateway.services.creator.enqueue(ticket) is None
    assert not gateway.queues.sent


async def test_time_to_live_lasts_until_the_deadline(gateway: RunningGateway) -> None:
    await gateway.accept(deadline_seconds=1)
    ticket = await accept_unsent(gateway, deadline_seconds=1)
    gateway.clock.now += timedelta(milliseconds=10)
    await gateway.services.creator.enqueue(ticket)
    assert [message.time_to_live for _, message in gateway.queues.sent] == [
        timedelta(seconds=1)
    ] * 2


def trigger(method: str, url: str, body: bytes = b"", **headers: str) -> func.HttpRequest:
    return func.HttpRequest(method, url, headers=headers, body=body)


async def app_of(gateway: RunningGateway) -> Any:
    transport: Any = gateway.http._transport
    return transport.app


async def test_request_of_functions_reaches_the_app(gateway: RunningGateway) -> None:
    answer = await serve(
        await app_of(gateway),
        trigger(
            "POST",
            "https://host:7071/v1/models/noop/jobs?parameters=%7B%22a%22:1%7D",
            b"\0\1",
            **{"Content-Type": "application/octet-stream", "Prefer": "respond-async"},
        ),
        gateway.durable,
    )
    assert answer.status_code == 202
    assert answer.mimetype == "application/json"
    assert answer.headers["location"].startswith("/v1/jobs/")
    assert "content-length" not in answer.headers
    assert gateway.queues.request().parameters == {"a": 1}


class App:
    """An ASGI app that sends the given ASGI messages, and then raises `error` unless it is None."""

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


async def test_chunks_and_repeated_headers_are_joined(gateway: RunningGateway) -> None:
    app = App(
        START,
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    )
    url = "http://h/a%20b%2F%C3%A9?x=%20"
    answer = await serve(app, trigger("get", url, X="é"), gateway.durable)
    assert (answer.status_code, answer.get_body()) == (207, b"ab")
    assert dict(answer.headers) == {"vary": "a, b"}
    assert app.scope["method"] == "GET"
    assert app.scope["path"] == "/a b/é"
    assert app.scope["raw_path"] == b"/a%20b%2F%C3%A9"
    assert app.scope["query_string"] == b"x=%20"
    assert app.scope["headers"] == [(b"x", "é".encode("latin-1"))]
    assert app.scope["durable"] is gateway.durable


async def test_error_after_the_response_is_logged(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(START, {"type": "http.response.body"}, error=ValueError("why"))
    answer = await serve(app, trigger("GET", "http://h/"), gateway.durable)
    assert answer.status_code == 207
    assert "why" in caplog.text


async def test_error_before_the_response_is_raised(gateway: RunningGateway) -> None:
    with pytest.raises(ValueError, match="why"):
        await serve(App(error=ValueError("why")), trigger("GET", "http://h/"), gateway.durable)


INDEX = """
import json
import function_app
for function in function_app.app.get_functions():
    bindings = json.loads(function.get_function_json())["bindings"]
    print(json.dumps([function.get_function_name(), bindings]))
"""

# Azure's host leaves out a function that breaks one of these rules, and runs all others.
FUNCTION_NAME = re.compile(r"(?!host$)[a-z][a-z0-9_\-]{0,127}", re.IGNORECASE)
BINDING_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,127}|\$return")
ROUTE = re.compile(r"(?!/?(admin|runtime)(/|$)).*", re.IGNORECASE)


def index_functions() -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the name and the bindings of each function of the app."""
    indexed = subprocess.run(
        [sys.executable, "-c", INDEX],
        cwd=FUNCTIONS,
        env=dict(ENVIRON),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in indexed.stdout.splitlines()]


def test_azures_host_accepts_each_function() -> None:
    functions = index_functions()
    assert len({name.lower() for name, _ in functions}) == len(functions)
    for name, bindings in functions:
        assert FUNCTION_NAME.fullmatch(name)
        names = [binding["name"] for binding in bindings]
        assert all(map(BINDING_NAME.fullmatch, names)), (name, names)
        assert len({each.lower() for each in names}) == len(names), (name, names)
        assert sum(binding["type"].endswith("Trigger") for binding in bindings) == 1, name
        assert all(ROUTE.fullmatch(binding.get("route", "")) for binding in bindings), name


def test_exactly_the_expected_functions_are_registered() -> None:
    functions = [
        " ".join([name, *sorted(f"{each['type']}:{each['name']}" for each in bindings)])
        for name, bindings in index_functions()
    ]
    assert functions == [
        "http durableClient:client http:$return httpTrigger:req",
        "job orchestrationTrigger:context",
        "enqueue activityTrigger:ticket",
        "conclude activityTrigger:asked",
        "webhook orchestrationTrigger:context",
        "announce_webhook activityTrigger:job durableClient:client",
        "deliver_webhook activityTrigger:job durableClient:client",
        *(
            f"dead_letters_{queue} durableClient:client serviceBusTrigger:message"
            for model in Catalogue.load().values()
            for queue in (model.queue, low_priority_queue(model.queue))
        ),
        "watch timerTrigger:timer",
        "purge durableClient:client timerTrigger:timer",
    ]


def test_app_does_not_start_with_an_invalid_setting() -> None:
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
