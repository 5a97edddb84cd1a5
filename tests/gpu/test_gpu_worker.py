"""Test when a worker with a GPU is ready, and that it exits if it can no longer use the GPU.

The worker is ready only after a successful test computation on the GPU.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import InlineBytes, InlineJson, JobReply
from lab.benchmarks.rig import WorkerRig, run_rig
from tests.gpu.gpu_asserting_model import LOSES_THE_DEVICE
from worker.processes.shutdown import EXIT_DEVICE_LOST

pytestmark = [pytest.mark.gpu, pytest.mark.torch, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
SECONDS = 60.0

CATALOGUE = """
[asserting]
task = "test"
description = "Loses the device on some inputs."
implementation = "tests.gpu.gpu_asserting_model"
queue = "asserting"
media_types = ["application/octet-stream"]
max_input_bytes = 1_000
deadline_seconds = 60
max_deadline_seconds = 3600
max_batch_size = 4
max_wait_ms = 5
lock_seconds = 10
max_delivery_count = 3
"""

# After a device is lost, the process cannot use the device again. So a new process runs the code.
LOSE = """
import json
import torch
from worker.memory.device_errors import device_computes, is_device_lost, device_state

values = torch.arange(4, device="cuda")
before = device_computes()
try:
    values[torch.tensor([10**6], device="cuda")].tolist()
except RuntimeError as error:
    print(json.dumps([before, is_device_lost(error), device_state(error).name, device_computes()]))
"""

OUT_OF_MEMORY = """
import json
import torch
from worker.memory.device_errors import device_computes, is_device_lost
from worker.memory.device_errors import is_out_of_memory

torch.ones(1, device="cuda")
try:
    torch.empty(2**50, dtype=torch.uint8, device="cuda")
except RuntimeError as error:
    print(json.dumps([is_out_of_memory(error), is_device_lost(error), device_computes()]))
"""


def told(code: str) -> Any:
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=SECONDS
    )
    return json.loads(found.stdout)


def test_assert_on_the_device_is_a_lost_device() -> None:
    assert told(LOSE) == [True, True, "LOST", False]


def test_out_of_memory_is_no_lost_device() -> None:
    assert told(OUT_OF_MEMORY) == [True, False, True]


def one_reply(rig: WorkerRig, data: bytes) -> JobReply:
    rig.fill("asserting", [InlineBytes("application/octet-stream", data)], 1)
    rig.wait_for_replies("asserting", 1, SECONDS)
    (reply,) = rig.take_replies()
    return reply


def test_lost_device_ends_the_worker_and_abandons_the_job(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(CATALOGUE, "utf-8")
    with run_rig(tmp_path, catalogue, "asserting") as rig:
        outcome = one_reply(rig, b"abc").outcome
        assert isinstance(outcome, InlineJson)
        assert outcome.value == {"value": 3}
        rig.fill("asserting", [InlineBytes("application/octet-stream", LOSES_THE_DEVICE)], 1)
        assert rig.worker.process.wait(SECONDS) == EXIT_DEVICE_LOST
        assert rig.count("asserting") == 1, "the job is not in the queue for another worker"
        assert rig.count("replies") == 0


def test_worker_is_ready_after_a_test_computation(tmp_path: Path) -> None:
    catalogue = ROOT / "lab" / "benchmarks" / "models.toml"
    with run_rig(tmp_path, catalogue, "classifier") as rig:
        answer = httpx.get(rig.worker.probe, timeout=SECONDS)
        assert answer.status_code == 200
        assert answer.json()["device"]["computed_seconds_ago"] >= 0
        metrics = httpx.get(rig.worker.probe.replace("ready", "metrics"), timeout=SECONDS).text
        used = re.search(r"^loosely_worker_device_memory_used_bytes (\S+)$", metrics, re.MULTILINE)
        assert used is not None
        assert float(used[1]) > 2**20, "the model is not on the GPU"
