"""Test when the worker is live and ready."""

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from worker.telemetry.health import DeviceProbe, Loops, check_readiness


@dataclass
class Worker:
    """The state of a worker that determines its readiness.

    `models` has the state of each model. `leaving` is the reason for a shutdown, or empty. The test
    computation on the device raises `error`, unless it is None.
    """

    models: dict[str, dict[str, Any]]
    leaving: str = ""
    error: Exception | None = None
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.probe = DeviceProbe(self.compute, self.failures.append)
        check = partial(check_readiness, lambda: self.models, self.probe, lambda: self.leaving)
        self.ready = partial(check, are_broken_allowed=False)
        self.started = partial(check, are_broken_allowed=True)

    def compute(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def worker() -> Worker:
    return Worker({"classifier": {"ready": True, "held": 1}, "noop": {"ready": True}})


def test_worker_is_ready_after_a_computation(worker: Worker) -> None:
    worker.probe.run_kernel()
    good, details = worker.ready()
    assert good
    assert details["models"] == worker.models
    assert "reason" not in details
    assert details["device"]["computed_seconds_ago"] == pytest.approx(0, abs=5)


def test_models_that_are_not_ready_are_named(worker: Worker) -> None:
    worker.probe.run_kernel()
    worker.models["classifier"]["ready"] = False
    good, details = worker.ready()
    assert not good
    assert details["reason"] == "not ready yet: classifier"


def test_worker_with_a_broken_model_has_started(worker: Worker) -> None:
    worker.probe.run_kernel()
    worker.models["classifier"] |= {"ready": False, "set_aside": True}
    good, details = worker.ready()
    assert not good
    assert details["reason"] == "set aside: classifier"
    assert worker.started()[0]

    worker.models["noop"]["ready"] = False
    assert worker.started()[1]["reason"] == "not ready yet: noop; set aside: classifier"
    worker.models["noop"]["set_aside"] = True
    assert not worker.started()[0], "no model is served"


def test_lost_device_is_not_ready(worker: Worker) -> None:
    worker.error = RuntimeError("CUDA error: unspecified launch failure")
    worker.probe.run_kernel()
    good, details = worker.ready()
    assert not good
    assert details["reason"] == "the device is lost"
    assert details["device"] == {"problem": "RuntimeError"}
    assert worker.failures == [worker.error]


def test_shutting_down_is_not_ready(worker: Worker) -> None:
    worker.probe.run_kernel()
    worker.leaving = "received SIGTERM"
    good, details = worker.ready()
    assert not good
    assert details["reason"] == "draining: received SIGTERM"
    assert details["models"] == worker.models


def test_failed_loop_is_not_alive() -> None:
    loops = Loops()

    def broken() -> None:
        sys.exit("what a model's code may do")

    loops.guarded("noop-receive", lambda: None)()
    assert loops.live() == (True, {"seconds_since_turn": {}})
    loops.guarded("noop-device", broken)()
    assert loops.live() == (False, {"seconds_since_turn": {}, "broken": ["noop-device"]})


def test_running_loops_are_alive() -> None:
    now = [1000.0]
    loops = Loops(lambda: now[0])
    loops.watch("noop-receive", lambda: 999.0)
    loops.watch("locks", lambda: 950.0)
    assert loops.live() == (True, {"seconds_since_turn": {"noop-receive": 1.0, "locks": 50.0}})
    now[0] = 1040.0
    good, details = loops.live()
    assert not good
    assert details["stalled"] == ["locks"]
