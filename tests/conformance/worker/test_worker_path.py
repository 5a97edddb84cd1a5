"""One job's path through the worker: few modules, in the order of the steps."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from contract.messages import InlineBytes
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, job_id, message, wait_until

MAX_MODULES = 18
STEPS = ["receive", "prepare", "infer", "reply", "settle"]


def test_a_job_passes_few_modules_in_the_order_of_the_steps(
    services: LocalServices, gateway: Gateway, tmp_path: Path
) -> None:
    record = tmp_path / "path.json"
    worker = services.worker(gateway.host, "noop", PATH_RECORD=str(record))
    worker.command = ["tests.conformance.worker.path_recorder"]
    worker.start()
    try:
        wait_until(worker.is_ready_for_jobs, "the model is loaded")
        # Longer than an idle receive call, so that the start of the worker is not recorded.
        time.sleep(1.0)
        worker.signal(signal.SIGUSR2)
        wait_until(record.exists, "the record of the start is written")
        record.unlink()
        name = job_id()
        services.send("noop", message(gateway, name, "noop", InlineBytes("text/plain", b"hello")))
        gateway.taken(name)
        services.wait_until_empty("noop")
        worker.signal(signal.SIGUSR2)
        wait_until(record.exists, "the record of the job is written")
    finally:
        worker.kill()
    modules = json.loads(record.read_text())
    sys.stdout.write("\n".join(modules) + "\n")
    steps = [module.removeprefix("worker.pipeline.") for module in modules]
    assert [step for step in steps if step in STEPS] == STEPS
    assert len(modules) <= MAX_MODULES, "\n".join(modules)
