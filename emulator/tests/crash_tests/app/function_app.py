"""A durable app that the Functions host runs while the crash test kills the host."""

# mypy: disable-error-code="untyped-decorator"
# The decorators of azure.durable_functions are not annotated.

import datetime
import uuid
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
Orchestration = Generator[Any, Any, Any]


@app.route(route="orders/{id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def place(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    instance_id = await client.start_new("order", req.route_params["id"], None)
    response: func.HttpResponse = client.create_check_status_response(req, instance_id)
    return response


@app.orchestration_trigger(context_name="context")
def order(context: df.DurableOrchestrationContext) -> Orchestration:
    first = yield context.call_activity("issue", None)
    due = context.current_utc_datetime + datetime.timedelta(milliseconds=200)
    yield context.create_timer(due)
    payment = yield context.wait_for_external_event("payment")
    shipped = yield context.call_sub_orchestrator("shipment", None)
    others = yield context.task_all([context.call_activity("issue", None) for _ in range(3)])
    return {"payment": payment, "tokens": [first, *shipped, *others]}


@app.orchestration_trigger(context_name="context")
def shipment(context: df.DurableOrchestrationContext) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(milliseconds=50)
    yield context.create_timer(due)
    token = yield context.call_activity("issue", None)
    return [token]


@app.activity_trigger(input_name="nothing")
def issue(nothing: object) -> str:
    """Return a token that is different for each call, so that a test recognises a lost result."""
    return uuid.uuid4().hex
