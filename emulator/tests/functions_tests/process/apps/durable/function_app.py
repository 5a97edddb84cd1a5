"""Orchestrations, activities and HTTP functions that the tests start."""

# mypy: disable-error-code="untyped-decorator"
# The decorators of azure.durable_functions are not annotated.

import datetime
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
Orchestration = Generator[Any, Any, Any]


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    body = req.get_body()
    value = req.get_json() if body else None
    instance_id = await client.start_new(req.route_params["name"], req.params.get("id"), value)
    response: func.HttpResponse = client.create_check_status_response(req, instance_id)
    return response


@app.route(route="wait/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def wait(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    instance_id = await client.start_new(req.route_params["name"], None, req.get_json())
    response: func.HttpResponse = await client.wait_for_completion_or_create_check_status_response(
        req, instance_id, 20000, 100
    )
    return response


@app.orchestration_trigger(context_name="context")
def chaining(context: df.DurableOrchestrationContext) -> Orchestration:
    first = yield context.call_activity("hello", context.get_input())
    second = yield context.call_activity("hello", first)
    return [first, second]


@app.orchestration_trigger(context_name="context", orchestration="fan_out")
def spread(context: df.DurableOrchestrationContext) -> Orchestration:
    numbers = context.get_input()
    squares = yield context.task_all([context.call_activity("square", n) for n in numbers])
    return sum(squares)


@app.orchestration_trigger(context_name="context")
def naps(context: df.DurableOrchestrationContext) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(milliseconds=context.get_input())
    yield context.create_timer(due)
    return "rested"


@app.orchestration_trigger(context_name="context")
def approval(context: df.DurableOrchestrationContext) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(hours=1)
    timer = context.create_timer(due)
    event = context.wait_for_external_event("approval")
    winner = yield context.task_any([event, timer])
    if winner == event:
        timer.cancel()
        return {"approved": event.result}
    return "too late"


@app.orchestration_trigger(context_name="context")
def failing(context: df.DurableOrchestrationContext) -> Orchestration:
    try:
        yield context.call_activity("breaks", None)
    except Exception as error:  # noqa: BLE001 - nothing narrower is raised
        return str(error).splitlines()[0].rstrip()


@app.orchestration_trigger(context_name="context")
def crashing(context: df.DurableOrchestrationContext) -> Orchestration:
    return (yield context.call_activity("kills_once", context.get_input()))


@app.activity_trigger(input_name="name")
def hello(name: str) -> str:
    return f"Hello {name}!"


@app.activity_trigger(input_name="number")
async def square(number: int) -> int:
    return number * number


@app.activity_trigger(input_name="nothing")
def breaks(nothing: object) -> None:
    raise ValueError("out of order")


@app.activity_trigger(input_name="marker", activity="kills_once")
def kill_this_process(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
