"""Let the gateway see workers: by their heartbeats, and by their replies."""

from datetime import UTC, datetime, timedelta
from typing import Any

from contract.catalogue import Priority
from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.messages import InlineJson, JobReply, Timing
from contract.names import heartbeat_blob
from tests.unit.gateway.conftest import RunningGateway


def beat(gateway: RunningGateway, worker: str = "pod-7", **changes: Any) -> None:
    """Write the heartbeat of a worker that serves noop, with these changes."""
    given: dict[str, Any] = {
        "worker": worker,
        "version": "1",
        "started_at": gateway.clock() - timedelta(seconds=30),
        "interval_seconds": 5.0,
        "models": (ModelHeartbeat("noop", ModelState.LOADED, load_seconds=0.5),),
    }
    gateway.blobs.put(heartbeat_blob(worker), encode_heartbeat(Heartbeat(**{**given, **changes})))


def heard(gateway: RunningGateway, seconds: float) -> None:
    """Let the gateway record a worker's reply to a job that ran for this many seconds."""
    started_at = datetime(2026, 3, 1, tzinfo=UTC)
    reply = JobReply(
        job_id="",
        outcome=InlineJson(1),
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=seconds),
        timing=Timing(inference_ms=1000 * seconds),
        attempt=1,
    )
    gateway.services.estimates.record_reply("noop", Priority.NORMAL, reply)
