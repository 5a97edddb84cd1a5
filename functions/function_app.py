"""The entry point of the Azure Function App: it creates the gateway and registers its functions."""
# The decorators of azure-functions have no type annotations.
# mypy: disallow-untyped-decorators=False

import logging
import os
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from starlette.requests import Request
from starlette.responses import Response

from contract.allocator import start_trimming
from contract.catalogue import Priority, queue_of
from contract.names import SETTING_SERVICE_BUS, dead_letter_queue
from contract.queues import names
from gateway import housekeeping
from gateway.batches import orchestrator as batch_orchestrator
from gateway.durable import Durable, read_binding
from gateway.http.app import create_app
from gateway.jobs import orchestrator
from gateway.jobs.orchestrator import log_failure
from gateway.queues.ages import log_oldest
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.web_extension import AppResponse
from gateway.webhooks import orchestrator as webhook_orchestrator
from gateway.webhooks.activities import start_delivery

# Azure's SDKs log each request at level INFO.
logging.getLogger("azure").setLevel(logging.WARNING)

start_trimming()
services = Services.of(GatewaySettings.from_env(os.environ))
if services.settings.is_open:
    logging.getLogger(__name__).warning(
        "API_KEYS is not set: every caller that can reach %s may use all routes",
        services.settings.gateway_base_url,
    )
if os.environ.get("PYTHON_ENABLE_INIT_INDEXING", "").lower() not in {"1", "true"}:
    logging.getLogger(__name__).error(
        "PYTHON_ENABLE_INIT_INDEXING is not set: Azure's Functions host passes no HTTP request to "
        "this app; set this app setting to 1"
    )
api = create_app(services)
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.function_name("http")
@app.route("{*path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@app.generic_input_binding("client", "durableClient")
async def http(req: Request, client: str) -> Response:
    """Return the response of the API, which then reads the request itself."""
    durable = read_binding(client)
    services.gate.start(durable)
    if not services.queues.has_dead_letter_trigger:
        services.dead_letter_reader.start(durable)
    return AppResponse(api, durable)


@app.function_name("job")
@app.generic_trigger("context", "orchestrationTrigger")
def job(context: func.OrchestrationContext) -> str:
    """Run one job until it has ended, and return the state of its orchestration as JSON."""
    return orchestrator.end_at_start(context.body) or run_job(context)


@df.Orchestrator.create
def run_job(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """Run one job with the SDK, and return its final state as a JSON object."""
    record = yield from orchestrator.job(context)
    if not context.is_replaying:
        log_failure(context.instance_id, record)
    return record


@app.activity_trigger("ticket")
async def enqueue(ticket: str) -> str | None:
    """Send a job's request; return the JSON of a JobError if it can never be sent."""
    return await services.creator.enqueue(ticket)


@app.activity_trigger("asked")
async def conclude(asked: str) -> str:
    """Record the outcome in `asked` unless the job has one; return the job's outcome."""
    return await services.conclude.run(asked)


@app.orchestration_trigger("context")
def webhook(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """Deliver one webhook, with retries, and return the log of the delivery attempts."""
    return (yield from webhook_orchestrator.webhook(context))


@app.activity_trigger("job")
@app.durable_client_input("client")
async def announce_webhook(job: str, client: df.DurableOrchestrationClient) -> None:
    """Start the orchestration that delivers the webhook of the job or batch with the id `job`."""
    await start_delivery(job, Durable(client))


@app.activity_trigger("job")
@app.durable_client_input("client")
async def deliver_webhook(job: str, client: df.DurableOrchestrationClient) -> str:
    """Try once to post a job or batch to its webhook; return the HTTP status or an error code."""
    return await services.webhook_activities.deliver(job, Durable(client))


@app.orchestration_trigger("context")
def batch(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """Run a batch until it has ended, and return its final status."""
    return (yield from batch_orchestrator.batch(context))


@app.activity_trigger("batch")
async def step_batch(batch: str) -> str:
    """Do a part of the work of a batch; return what its orchestration does next, as JSON."""
    return await services.batch_steps.run(batch)


def _add_dead_letter_trigger(queue: str) -> None:
    @app.function_name(f"dead_letters_{queue}")
    @app.service_bus_queue_trigger("message", SETTING_SERVICE_BUS, dead_letter_queue(queue))
    @app.durable_client_input("client")
    async def on_dead_letter(
        message: func.ServiceBusMessage, client: df.DurableOrchestrationClient
    ) -> None:
        # The library of Service Bus is imported only where it is used.
        from gateway.brokers.servicebus import read_dead_letter  # noqa: PLC0415

        await services.dead_letters.run(read_dead_letter(message), queue, Durable(client))


if services.queues.has_dead_letter_trigger:
    for model in services.catalogue.values():
        for priority in Priority:
            _add_dead_letter_trigger(queue_of(model, priority))


@app.timer_trigger("timer", "30 * * * * *")
@app.durable_client_input("client")
async def watch(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Log the age of the oldest message in each queue, and record how many jobs wait."""
    if not services.queues.has_dead_letter_trigger:
        services.dead_letter_reader.start(Durable(client))
    await services.gate.open_used()
    oldest = await log_oldest(services.queues, names(services.catalogue), services.clock)
    await services.operations.record_waiting(oldest)


@app.timer_trigger("timer", "0 */10 * * * *")
@app.durable_client_input("client")
async def purge(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Delete data whose retention has ended, and end stuck orchestrations."""
    await housekeeping.run(Durable(client), services)
