"""Functions with Service Bus triggers. The tests read what these functions log."""

import json
import logging
import os
import signal
import threading
from pathlib import Path

import azure.functions as func

app = func.FunctionApp()


@app.service_bus_queue_trigger(arg_name="message", queue_name="%QUEUE%", connection="BUS")
def on_job(message: func.ServiceBusMessage, context: func.Context) -> None:
    body = message.get_body().decode()
    seen = {
        "body": body,
        "id": message.message_id,
        "correlation": message.correlation_id,
        "type": message.content_type,
        "subject": message.subject,
        "count": message.delivery_count,
        "properties": message.application_properties,
        "sequence": message.sequence_number,
        "enqueued": str(message.enqueued_time_utc),
        "trace": context.trace_context.trace_parent,
    }
    logging.warning("job %s", json.dumps(seen, sort_keys=True))
    if body == "bad":
        raise ValueError("cannot be done")
    if body.startswith("crash "):
        marker = Path(body.removeprefix("crash "))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if body.startswith("wait "):
        Path(body.removeprefix("wait ")).read_text()
    logging.warning("done %s", body)


@app.service_bus_queue_trigger(
    arg_name="message", queue_name="%QUEUE%/$DeadLetterQueue", connection="BUS"
)
async def on_dead(message: func.ServiceBusMessage) -> None:
    # As in Azure, the trigger metadata do not contain this field.
    assert message.dead_letter_reason is None
    reason = message.application_properties["DeadLetterReason"]
    logging.warning("dead %s %s", message.get_body().decode(), reason)


@app.service_bus_queue_trigger(arg_name="text", queue_name="texts", connection="BUS")
async def on_text(text: str) -> None:
    logging.warning("text %r %d", text, threading.active_count())
