"""Test that a worker with WORKER_REQUIRE_DEVICE=cuda runs no jobs on a machine without a GPU."""

import re
from collections.abc import Callable

import httpx
import pytest

from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_metrics import ScrapedMetrics
from tests.conformance.worker.worker_services import (
    LocalServices,
    submit,
    wait_until,
)
from worker.memory.device import CudaDevice

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(CudaDevice.find() is not None, reason="this machine has a GPU"),
]


def has_failed(probe: str) -> Callable[[], bool]:
    def check() -> bool:
        return httpx.get(probe).json()["models"]["single"]["problem"] is not None

    return check


def test_missing_gpu_leaves_jobs_queued(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    (identity,) = submit(services, gateway, "single", {"do": "answer"})
    strict = start_worker("single", wait=False, WORKER_REQUIRE_DEVICE="cuda")
    wait_until(lambda: strict_answers(strict.probe), "the health server answers")
    wait_until(has_failed(strict.probe), "the worker has looked for a GPU")

    for page in (strict.probe, strict.probe.replace("/ready", "/started")):
        response = httpx.get(page)
        assert response.status_code == 503
        assert response.json()["reason"] == "set aside: single"
    problem = httpx.get(strict.probe).json()["models"]["single"]["problem"]
    assert problem["code"] == "device-missing"
    assert re.match(r"WORKER_REQUIRE_DEVICE is cuda, but no GPU can be used: ", problem["detail"])
    metrics = ScrapedMetrics(strict)
    assert metrics.value("received_total", model="single") == 0
    assert metrics.value("model_set_aside", model="single") == 1
    assert services.waiting("single") == [identity]
    strict.kill()

    lenient = start_worker("single", WORKER_REQUIRE_DEVICE="any")
    assert gateway.taken(identity)
    wait_until(lenient.is_ready_for_jobs, "the worker is ready")
    metrics = ScrapedMetrics(lenient)
    assert metrics.value("redeliveries_total", model="single") == 0
    assert "the device is cpu: driver " in lenient.log.read_text(encoding="utf-8")
    exposition = httpx.get(lenient.probe.replace("/ready", "/metrics")).text
    assert re.search(
        r'^loosely_worker_device_info\{.*device="cpu".*\} 1\.0$', exposition, re.MULTILINE
    )


def strict_answers(probe: str) -> bool:
    try:
        return "single" in httpx.get(probe).json()["models"]
    except httpx.TransportError:
        return False
