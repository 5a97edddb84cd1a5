"""Test that docs/reference/observability.md lists every metric of the worker."""

import re
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from worker.telemetry.recording import Metrics

DOCUMENT = Path(__file__).parents[3] / "docs/reference/observability.md"
ROW = re.compile(r"^\| `(loosely_worker_\w+)` \| (\w+) \| ([\w, ]*) ?\| (.+) \|$", re.MULTILINE)


def test_documented_metrics_are_those_of_the_worker() -> None:
    told = {
        (name, kind, labels.strip(), text)
        for name, kind, labels, text in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    }
    assert told == set(metrics())


def metrics() -> list[tuple[str, str, str, str]]:
    collectors = Metrics().registry._collector_to_names
    ours = [one for one in collectors if isinstance(one, MetricWrapperBase)]
    return [
        (
            one._name + ("_total" if isinstance(one, Counter) else ""),
            str(one._type),
            ", ".join(one._labelnames),
            one._documentation,
        )
        for one in ours
    ]
