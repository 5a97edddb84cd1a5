"""Build the report of a soak, a long load test, as lines of text, as Markdown or as JSON."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.storm.footprint import MIB, RoleFootprint, Slope
from lab.storm.jobs import BrokenPromises
from lab.storm.run import count, describe_broken
from lab.storm.soak_callers import Wait

if TYPE_CHECKING:
    from lab.storm.soak import Soak

_Row = dict[str, Any]


def build_report(run: "Soak") -> dict[str, Any]:
    """Return the whole report as a JSON object. Waits are in seconds, memory is in MiB."""
    options = run.options
    broken = BrokenPromises.find(run.judged)
    return {
        "passed": not broken and not run.failures,
        "options": {
            "minutes": options.minutes,
            "seed": options.seed,
            "engine": options.engine,
            "jobs per second": options.rate,
            "models": ", ".join(run.models),
            "hostile": ", ".join(attack.name for attack in run.attacks) or "none",
            "faults": ", ".join(options.faults) or "none",
            "faults per minute": options.faults_per_minute,
            "full disk": run.disk.name if run.disk else "left out",
            "share without kills": round(options.quiet_share, 2),
        },
        "counts": {
            **count(run, broken),
            "producers' jobs": len(run.producer_jobs),
            "hostile jobs": sum(job.is_hostile for job in run.soak_jobs),
            "redriven": run.operator.redriven_count if run.operator else 0,
            "attacks": len(run.attack_times),
        },
        "broken": describe_broken(run, broken),
        "failures": run.failures,
        "notes": run.notes,
        "webhooks": _webhooks(run),
        "neighbour": _neighbour(run.neighbour.waits if run.neighbour else []),
        "processes": [
            _process(role, options.memory_bound, options.files_bound)
            for role in run.footprint.roles(options.warm_up)
        ],
        "bounds": {
            "MiB per minute": options.memory_bound,
            "open files per minute": options.files_bound,
            "warm-up of a process, s": options.warm_up,
        },
    }


def _webhooks(run: "Soak") -> _Row:
    counts = run.webhooks
    if counts is None:
        return {}
    return {
        "expected": counts.expected,
        "delivered": counts.delivered,
        "repeated": counts.repeated,
        "missing": len(counts.missing),
        "wrong": len(counts.wrong),
        "not signed": counts.unsigned,
    }


def _neighbour(waits: Sequence[Wait]) -> list[_Row]:
    """Return the rows of the table that shows how long the neighbour waited for its jobs.

    The neighbour is a caller of small jobs. Each model has one row for all jobs, one for jobs
    during a fault, one for each attack, and one for jobs without a fault or an attack. A row has
    the median and the longest wait.
    """
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for wait in waits:
        groups[wait.model, "all"].append(wait.seconds)
        if wait.has_fault:
            groups[wait.model, "with a fault"].append(wait.seconds)
        else:
            name = f"under {wait.attack}" if wait.attack else "calm"
            groups[wait.model, name].append(wait.seconds)
    return [
        {
            "model": model,
            "when": when,
            "jobs": len(seconds),
            "median s": round(median(seconds), 3),
            "longest s": round(max(seconds), 3),
        }
        for (model, when), seconds in sorted(groups.items())
    ]


def _process(role: RoleFootprint, memory_bound: float, files_bound: float) -> _Row:
    return {
        "process": role.role,
        "lives": role.lives,
        "peak MiB": round(role.peak_bytes / MIB),
        "MiB per minute": _slope(role.memory, MIB),
        "memory": _verdict(role.memory, memory_bound * MIB),
        "most open files": role.max_files,
        "files per minute": _slope(role.files, 1),
        "files": _verdict(role.files, files_bound),
    }


def _slope(slope: Slope | None, unit: int) -> str:
    if slope is None:
        return "-"
    return f"{slope.per_minute / unit:.2f} ± {slope.error_per_minute / unit:.2f}"


def _verdict(slope: Slope | None, bound: float) -> str:
    if slope is None:
        return "observed too briefly"
    if slope.grows(bound):
        return "grows"
    return "flat" if slope.is_flat(bound) else "varies too much"


def describe_soak(run: "Soak") -> Iterator[str]:
    """Yield lines of a soak's report: its webhooks, its waits for small jobs, and its processes."""
    found = build_report(run)
    yield f"webhooks: {', '.join(f'{name} {value}' for name, value in found['webhooks'].items())}"
    for title in ("neighbour", "processes"):
        yield ""
        yield from _align(found[title])


def _align(rows: Sequence[_Row]) -> Iterator[str]:
    if not rows:
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def write_report(run: "Soak", path: Path) -> None:
    """Write the report as JSON if the file's name ends in .json, otherwise as Markdown."""
    found = build_report(run)
    is_json = path.suffix == ".json"
    text = json.dumps(found, indent=2) if is_json else "\n".join(_markdown(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _markdown(found: dict[str, Any]) -> Iterator[str]:
    options = found["options"]
    yield f"# Soak of {options['minutes']:g} minutes, seed {options['seed']}"
    yield ""
    yield "Every promise was kept." if found["passed"] else "**A promise was broken.**"
    for title in ("options", "counts", "webhooks", "bounds"):
        rows = [{"name": name, "value": value} for name, value in found[title].items()]
        yield from _section(title, _table(rows))
    for title in ("broken", "failures", "notes"):
        if found[title]:
            yield from _section(title, (f"- {' '.join(text.split())}" for text in found[title]))
    for title in ("neighbour", "processes"):
        yield from _section(title, _table(found[title]))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"## {title.capitalize()}"
    yield ""
    yield from lines


def _table(rows: Sequence[_Row]) -> Iterator[str]:
    if not rows:
        yield "none"
        return
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(str(value).replace('|', '/') for value in row.values())} |"
