"""Test that a worker checks all jobs of a batch for cancellation at the same time."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.catalogue import Catalogue
from contract.messages import ReplyUrl
from tests.conformance.worker.worker_gateway import Gateway
from tests.unit.worker.received import locked_message, received_job
from worker.brokers.receiver import LockRenewer
from worker.errors import NotWaitedFor
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_manager import ModelManager
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.pipeline.infer import InferStep
from worker.pipeline.prepare import CancellationCheck, RetryPolicy
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.replies import GatewayClient
from worker.settings import MemorySettings
from worker.telemetry.recording import ModelTelemetry

MODEL = Catalogue.load()["noop"]


def job_of(gateway: Gateway, in_flight: InFlight, locks: LockRenewer, name: str) -> ReceivedJob:
    """Return a job that was queued for 10 s, so that the worker asks whether it was cancelled."""
    delivery = locked_message(name, enqueued_at=datetime.now(UTC) - timedelta(seconds=10))
    job = received_job(delivery, locks, reply_to=ReplyUrl(gateway.url(name)), item=b"")
    in_flight.add_delivery(delivery)
    in_flight.add_job(job)
    return job


def test_jobs_of_a_batch_are_checked_together(gateway: Gateway, tmp_path: Path) -> None:
    in_flight = InFlight(ModelTelemetry("noop"))
    client = GatewayClient(frozenset({gateway.host}))
    workload = ModelWorkload("noop", lambda: 0, lambda: False, lambda: None, ())
    sharing = DeviceSharing(MemorySettings(None, tmp_path))
    manager = ModelManager(MODEL, lambda model: LoadedModel.load(model, 1), sharing, workload)
    assert manager.load(threading.Event())
    cancellation = CancellationCheck(client, RetryPolicy(threading.Event()))
    infer = InferStep(manager, in_flight, cancellation, None, MODEL)
    names = [f"job-{number}" for number in range(8)]
    locks = LockRenewer()
    batch = [job_of(gateway, in_flight, locks, name) for name in names]
    gateway.meeting = threading.Barrier(len(batch))
    gateway.asked_status["job-3"] = 410
    outcomes = list(infer.run_batch(batch))
    answered = [each.job.request.job_id for each in outcomes if each.error is None]
    assert answered == [name for name in names if name != "job-3"], "the order of the jobs is kept"
    (skipped,) = [each for each in outcomes if each.error is not None]
    assert skipped.job.request.job_id == "job-3"
    assert isinstance(skipped.error, NotWaitedFor)
    client.close()
