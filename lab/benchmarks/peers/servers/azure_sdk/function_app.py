"""A Function App that sends each request to a queue and waits for the worker's reply.

The app waits in memory, so it works only while it has a single instance.
"""

import asyncio
import os
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

# A batch may have 256 KiB. Five pictures of 26 KB need half of it.
_MAX_BATCH_MESSAGES = 5

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


class _Sender:
    """Sends messages to the queue. Messages that wait at the same time are sent as one batch."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[ServiceBusMessage, asyncio.Future[None]]] = deque()
        self._client = ServiceBusClient.from_connection_string(os.environ["PEER_SERVICE_BUS"])
        self._sender = self._client.get_queue_sender("jobs")
        self._task: asyncio.Task[None] | None = None

    async def send(self, message: ServiceBusMessage) -> None:
        """Send a message, and return when the queue has stored it."""
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((message, sent))
        if self._task is None:
            self._task = asyncio.create_task(self._send_waiting())
        await sent

    async def _send_waiting(self) -> None:
        try:
            while batch := list(self._take_batch()):
                messages = [message for message, _ in batch]
                await self._sender.send_messages(messages[0] if len(messages) == 1 else messages)
                for _, sent in batch:
                    sent.set_result(None)
        finally:
            self._task = None

    def _take_batch(self) -> Iterator[tuple[ServiceBusMessage, "asyncio.Future[None]"]]:
        for _ in range(min(len(self._waiting), _MAX_BATCH_MESSAGES)):
            yield self._waiting.popleft()


_senders: list[_Sender] = []
_replies: dict[str, "asyncio.Future[str]"] = {}


@app.route("jobs", methods=["POST"])
@app.durable_client_input("client")
async def submit(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Send the request's body to the queue, wait for the reply, and respond with the reply.

    Before the response, the reply is stored as the input of an orchestration.
    """
    if not _senders:
        _senders.append(_Sender())
    job_id = uuid.uuid4().hex
    reply = _replies[job_id] = asyncio.get_running_loop().create_future()
    await _senders[0].send(ServiceBusMessage(req.get_body(), message_id=job_id))
    outcome = await reply
    await client.start_new("job", job_id, outcome)
    return func.HttpResponse(outcome, mimetype="application/json")


@app.route("replies/{job_id}", methods=["POST"])
async def receive_reply(req: func.HttpRequest) -> func.HttpResponse:
    """Pass a worker's reply to the request that waits for it."""
    reply = _replies.pop(req.route_params["job_id"], None)
    if reply is not None:
        reply.set_result(req.get_body().decode())
    return func.HttpResponse(status_code=202)


@app.orchestration_trigger(context_name="context")
def job(context: df.DurableOrchestrationContext) -> Any:
    """Return the outcome of the job, which is the input of the orchestration."""
    return context.get_input()
