"""Workers that share a device of eight units: their settings, their jobs, how long they waited."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_world import Program, World, job_id, message

TURN_SECONDS = 1.0


def sharing(folder: Path) -> dict[str, str]:
    """The settings of workers that meet in this folder, on a device of eight."""
    return {
        "WORKER_DEVICE_MEMORY": "8GiB",
        "WORKER_MEMORY_FOLDER": str(folder),
        "WORKER_TURN_SECONDS": str(TURN_SECONDS),
    }


def send_interleaved(world: World, gateway: Gateway, count: int) -> dict[str, int]:
    """Jobs for both models in turn; returns the number that each is to square."""
    jobs = {job_id(): number for number in range(count)}
    client = world.client
    with client.get_queue_sender("three") as three, client.get_queue_sender("six") as six:
        for identity, number in jobs.items():
            model, sender = ("three", three) if number % 2 else ("six", six)
            sender.send_messages(message(gateway, identity, model, {"n": number}))
    return jobs


def waits(workers: list[Program]) -> list[float]:
    """How long models that had work waited for their memory, by the workers' logs."""
    text = "".join(worker.log.read_text() for worker in workers)
    return [float(found) for found in re.findall(r"waited ([0-9.]+) s for memory", text)]
