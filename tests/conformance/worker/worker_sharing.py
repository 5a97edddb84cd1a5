"""Helpers for tests of several workers that share the memory of one simulated GPU of 8 GiB."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, Program, job_id, message

TURN_SECONDS = 1.0


def sharing(folder: Path) -> dict[str, str]:
    return {
        "WORKER_DEVICE_MEMORY": "8GiB",
        "WORKER_MEMORY_FOLDER": str(folder),
        "WORKER_TURN_SECONDS": str(TURN_SECONDS),
    }


def send_interleaved(services: LocalServices, gateway: Gateway, count: int) -> dict[str, int]:
    jobs = {job_id(): number for number in range(count)}
    client = services.client
    with client.get_queue_sender("three") as three, client.get_queue_sender("six") as six:
        for identity, number in jobs.items():
            model, sender = ("three", three) if number % 2 else ("six", six)
            sender.send_messages(message(gateway, identity, model, {"n": number}))
    return jobs


def waits(workers: list[Program]) -> list[float]:
    return [float(found) for found in re.findall(r"waited ([0-9.]+) s for memory", _logs(workers))]


def turn_seconds(workers: list[Program]) -> float:
    """Return the average time in seconds from one load of a model to the next load."""
    found = re.findall(
        r"^(\S+ \S+) .* (?:three|six): the model was loaded in", _logs(workers), re.MULTILINE
    )
    times = sorted(datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f") for text in found)  # noqa: DTZ007  only their differences count
    # Leave out the first load: before the jobs came, no other model waited.
    if len(times) < 3:
        return 0.0
    return (times[-1] - times[1]).total_seconds() / (len(times) - 2)


def _logs(workers: list[Program]) -> str:
    return "".join(worker.log.read_text() for worker in workers)
