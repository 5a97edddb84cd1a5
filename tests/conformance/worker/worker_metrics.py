"""Scrape a worker's metrics, and read their values."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conformance.worker.worker_services import START_SECONDS, Program


class ScrapedMetrics:
    """The metrics that a worker returned to one request."""

    def __init__(self, worker: Program) -> None:
        answer = httpx.get(worker.probe.replace("/ready", "/metrics"), timeout=START_SECONDS)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.text)
        self._samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        name = f"loosely_worker_{name}"
        (value,) = [s.value for s in self._samples if s.name == name and s.labels == labels]
        return float(value)

    def outcomes(self, model: str) -> dict[str, float]:
        settled = [s for s in self._samples if s.name == "loosely_worker_settled_total"]
        return {s.labels["outcome"]: s.value for s in settled if s.labels["model"] == model}
