"""Test that the jobs of an item model run one by one, and which jobs of a batch run together."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from contract.catalogue import Catalogue
from tests.unit.worker.received import locked_message, received_job
from tests.unit.worker.recorded_jobs import RecordedJobs
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_manager import ModelManager
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.models import Accepts
from worker.pipeline.infer import InferStep
from worker.pipeline.prepare import CancellationCheck, RetryPolicy
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.processes.history import NO_HISTORY, DeliveryHistory
from worker.replies import GatewayClient
from worker.settings import MemorySettings
from worker.telemetry.recording import ModelTelemetry

MODEL = replace(Catalogue.load()["noop"], max_batch_size=4)


class ItemModel:
    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self) -> None:
        self.items: list[bytes] = []

    def __call__(self, item: bytes) -> int:
        self.items.append(item)
        return len(item)


class BatchModel(ItemModel):
    def preprocess(self, item: bytes) -> bytes:
        return item


class Steps:
    """The inference step of a model that is loaded, and jobs for it."""

    def __init__(self, infer: ItemModel, folder: Path) -> None:
        self.in_flight = InFlight(ModelTelemetry("noop"))
        workload = ModelWorkload("noop", lambda: 0, lambda: False, lambda: None, ())
        sharing = DeviceSharing(MemorySettings(None, folder))
        self.manager = ModelManager(
            MODEL, lambda model: LoadedModel(model, infer), sharing, workload
        )
        assert self.manager.load(threading.Event())
        gateway = GatewayClient(frozenset())
        cancellation = CancellationCheck(gateway, RetryPolicy(threading.Event()))
        self.step = InferStep(self.manager, self.in_flight, cancellation, None, MODEL)

    def job(self, item: bytes, history: DeliveryHistory = NO_HISTORY) -> ReceivedJob:
        job = received_job(locked_message(history=history), item=item)
        self.in_flight.add_delivery(job.delivery)
        self.in_flight.add_job(job)
        return job


@pytest.fixture
def items(tmp_path: Path) -> tuple[ItemModel, Steps]:
    model = ItemModel()
    return model, Steps(model, tmp_path)


def test_item_is_answered_before_the_next_runs(items: tuple[ItemModel, Steps]) -> None:
    model, steps = items
    jobs = [steps.job(b"a"), steps.job(b"bb"), steps.job(b"ccc")]
    parts = list(steps.step.split_batch(jobs))
    assert parts == [[job] for job in jobs]
    for part, count in zip(parts[:2], (1, 2), strict=True):
        (inferred,) = steps.step.run_batch(part)
        assert (inferred.output, inferred.job.batch_size, len(model.items)) == (count, 1, count)
    assert steps.in_flight.withdraw_jobs() == jobs[2:], "a job starts only when its own run begins"
    assert list(steps.step.run_batch(parts[2])) == []


def test_batch_model_runs_whole_batches(tmp_path: Path) -> None:
    steps = Steps(BatchModel(), tmp_path)
    jobs = [steps.job(b"a"), steps.job(b"b")]
    assert list(steps.step.split_batch(jobs)) == [jobs]


def test_job_of_an_overrun_batch_runs_alone(tmp_path: Path) -> None:
    steps = Steps(BatchModel(), tmp_path)
    slow = DeliveryHistory(batch_overrun_count=1)
    jobs = [steps.job(b"a"), steps.job(b"b", slow), steps.job(b"c"), steps.job(b"d", slow)]
    assert steps.step.split_batch(jobs) == [[jobs[0], jobs[2]], [jobs[1]], [jobs[3]]]
    assert steps.step.split_batch(jobs[1:2] + jobs[3:]) == [[jobs[1]], [jobs[3]]]


def test_normal_item_passes_those_of_low_priority() -> None:
    class Model(ItemModel):
        def __call__(self, item: bytes) -> int:
            if item == b"low1":
                add(b"normal", "noop")
            return super().__call__(item)

    model = Model()
    jobs = RecordedJobs(model=replace(MODEL, max_wait_ms=20), infer=model)
    batches = jobs.consumer.batches

    def add(item: bytes, queue: str) -> None:
        job = jobs.job(queue=queue)
        job.item = item
        assert batches.add_item(job, is_low=queue != "noop")

    for number in range(1, 5):  # a full batch
        add(b"low%d" % number, "noop-low")
    jobs.has_settled.clear()
    thread = threading.Thread(target=jobs.consumer.run_device)
    thread.start()
    while len(jobs.settled) < 5:
        assert jobs.has_settled.wait(10)
        jobs.has_settled.clear()
    jobs.consumer.stop_receiving()
    thread.join(10)
    assert model.items == [b"low1", b"normal", b"low2", b"low3", b"low4"]
