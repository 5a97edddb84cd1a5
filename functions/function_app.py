"""The Function App: composition only. What the triggers do is in `gateway`."""
# The decorators of azure-functions have no types.
# mypy: disallow-untyped-decorators=False

import logging
import os
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func

from contract.names import SETTING_SERVICE_BUS, dead_letter_queue
from gateway.api.app import create_app
from gateway.asgi import serve
from gateway.durable import DurableClient
from gateway.jobs import activities, endings, orchestrator, recovery
from gateway.queueing import dead_letters
from gateway.queueing import watch as queue_watch
from gateway.queueing.priority import Priority, queue_of
from gateway.services import Services
from gateway.settings import Settings
from gateway.storage import housekeeping, sweep
from gateway.webhooks import activities as deliveries
from gateway.webhooks import orchestrator as webhooks
from gateway.webhooks import replies

# The SDKs log each request at info.
logging.getLogger("azure").setLevel(logging.WARNING)

services = Services.of(Settings.from_env(os.environ))
if services.settings.is_open:
    logging.getLogger(__name__).warning(
        "no API_KEYS are set: whoever reaches %s may do everything",
        services.settings.gateway_base_url,
    )
api = create_app(services)
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.function_name("http")
@app.route("{*path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@app.durable_client_input("client")
async def http(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Every route of the API."""
    return await serve(api, req, DurableClient(client))


@app.orchestration_trigger("context")
def job(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The life of one job."""
    record = yield from orchestrator.job(context)
    if not context.is_replaying:
        endings.report(context.instance_id, record)
    return record


@app.activity_trigger("ticket")
async def enqueue(ticket: str) -> str | None:
    """Send a job's request to its model's queue."""
    return await activities.enqueue(ticket, services)


@app.activity_trigger("asked")
async def conclude(asked: str) -> str:
    """Find a job's outcome, or record one."""
    return await activities.conclude(asked, services)


@app.orchestration_trigger("context")
def webhook(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The delivery of one job's webhook."""
    return (yield from webhooks.webhook(context))


@app.activity_trigger("job")
@app.durable_client_input("client")
async def announce_webhook(job: str, client: df.DurableOrchestrationClient) -> None:
    """Start the delivery of a job's webhook."""
    await deliveries.announce(job, DurableClient(client))


@app.activity_trigger("job")
@app.durable_client_input("client")
async def deliver_webhook(job: str, client: df.DurableOrchestrationClient) -> str:
    """Try once to deliver a job's webhook."""
    return await deliveries.deliver(job, DurableClient(client), services)


@app.activity_trigger("told")
async def deliver_reply(told: str) -> str:
    """Try once to tell a producer's webhook what became of its job."""
    return await replies.deliver(told, services)


def _dead_letters_of(queue: str) -> None:
    @app.function_name(f"dead_letters_{queue}")
    @app.service_bus_queue_trigger("message", SETTING_SERVICE_BUS, dead_letter_queue(queue))
    @app.durable_client_input("client")
    async def fail_job(
        message: func.ServiceBusMessage, client: df.DurableOrchestrationClient
    ) -> None:
        await dead_letters.fail_job(message, queue, DurableClient(client), services)


for model in services.catalogue.values():
    for priority in Priority:
        _dead_letters_of(queue_of(model, priority))


@app.timer_trigger("timer", "30 * * * * *")
async def watch(timer: func.TimerRequest) -> None:
    """Tell the age of each queue's oldest job."""
    await queue_watch.watch(services)


@app.timer_trigger("timer", "0 */10 * * * *")
@app.durable_client_input("client")
async def purge(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """End orchestrations that are left behind; delete histories and blobs past retention."""
    durable = DurableClient(client)
    await recovery.recover(durable, services)
    await housekeeping.purge(durable, services)
    await sweep.sweep(services)
