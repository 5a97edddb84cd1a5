"""The orchestration of a batch. It is replayed from its history, so it must be deterministic.

    step ──▶ final: announce the webhook, end
      ▲  └─▶ otherwise wait for the event `lines`, or as long as the step says; continue as new
      └──────────┘

All that a batch is lies in blobs, and the step reads them anew. So the orchestration has no state,
its history stays short, and an event that is lost costs a delay only. An event that arrives while
the step runs ends the next wait at once.
"""

import json
from collections.abc import Generator
from datetime import timedelta
from typing import Any, Final

from azure.durable_functions import DurableOrchestrationContext

from contract.names import ACTIVITY_ANNOUNCE_WEBHOOK, ACTIVITY_STEP_BATCH, EVENT_LINES
from gateway.jobs.orchestrator import SEND_RETRIES

FAILED_PAUSE_SECONDS: Final = 5.0
"""The pause after a step that failed, for example because the storage did not respond."""


def batch(context: DurableOrchestrationContext) -> Generator[Any, Any, str | None]:
    """Run one step of a batch and continue as new, or end with the batch's final status."""
    batch_id = context.get_input(str)
    stepping = context.call_activity(ACTIVITY_STEP_BATCH, batch_id)
    lines = context.wait_for_external_event(EVENT_LINES, str)
    # `task_any` prevents that a failed activity raises an error here.
    is_woken = (yield context.task_any([stepping, lines])) is lines
    if is_woken:
        yield context.task_any([stepping])
    is_done = isinstance(stepping.result, str)
    found = json.loads(stepping.result) if is_done else {"pause_seconds": FAILED_PAUSE_SECONDS}
    if "final" in found:
        if found["has_webhook"]:
            announcing = context.call_activity_with_retry(
                ACTIVITY_ANNOUNCE_WEBHOOK, SEND_RETRIES, batch_id
            )
            yield context.task_any([announcing])
        return str(found["final"])
    if found["pause_seconds"] > 0 and not (is_woken and is_done):
        pause = timedelta(seconds=found["pause_seconds"])
        timer = context.create_timer(context.current_utc_datetime + pause)
        if (yield context.task_any([timer] if is_woken else [lines, timer])) is lines:
            # An orchestration does not continue before its timers have fired or are cancelled.
            timer.cancel()
    context.continue_as_new(batch_id)
    return None
