"""Test that the queries of the dashboard use only metrics that the worker exports."""

import json
import re
from pathlib import Path
from typing import Any

from worker.telemetry.recording import Metrics

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "infra" / "dashboards" / "worker.json").read_text("utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
# Labels that the scraper adds.
SCRAPED = {"pod", "le"}


def series() -> dict[str, set[str]]:
    """Return the label names of each metric that a worker exports, by the metric's name."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        names = metrics.registry._collector_to_names[collector]
        found |= {name: labels for name in names if name.startswith("loosely_worker_")}
    return found


def test_every_metric_exists() -> None:
    known = series()
    assert known
    variable = DASHBOARD["templating"]["list"][1]["query"]["query"]
    for expression in [*EXPRESSIONS, variable]:
        names = re.findall(r"loosely_worker_\w+", expression)
        assert names
        assert set(names) <= known.keys(), expression


def test_every_label_belongs_to_its_metric() -> None:
    known = series()
    for expression in EXPRESSIONS:
        for name, matched in re.findall(r"(loosely_worker_\w+)(\{.*?\})?", expression):
            labels = set(re.findall(r"(\w+)=~?", matched))
            grouped = {
                label.strip()
                for group in re.findall(r"by \(([^)]*)\)", expression)
                for label in group.split(",")
            }
            assert labels | grouped <= known[name] | SCRAPED, expression


def test_counters_are_rates_and_panels_are_unique() -> None:
    for expression in EXPRESSIONS:
        for name in re.findall(r"loosely_worker_\w+_total", expression):
            assert re.search(rf"(?:rate|increase)\({name}\b", expression)
        assert expression.count("(") == expression.count(")")
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS)
