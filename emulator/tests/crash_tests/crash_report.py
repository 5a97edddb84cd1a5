"""The random moments of the kills of a crash test, and the report of a crash test."""

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.5
_MAX_SHOWN = 20


@dataclass(frozen=True)
class CrashOptions:
    """The options of a crash test.

    Attributes:
        kills: How often the service is killed.
        seed: The seed of the load and of the moments of the kills.
        engine: The durable engine of the Functions host.
    """

    kills: int
    seed: int
    engine: str = "local"


@dataclass(frozen=True)
class CrashReport:
    """What one crash test has counted.

    Attributes:
        name: The name of the service and of its client.
        figures: The counts, by their names.
        violations: A sentence for each promise that the service has broken.
    """

    name: str
    figures: Mapping[str, object]
    violations: Sequence[str]


def plan_pauses(options: CrashOptions) -> list[float]:
    """Return for each kill the time in seconds from the start of the service to the kill."""
    chance = random.Random(f"kills {options.seed}")
    return [
        chance.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS) for _ in range(options.kills)
    ]


def print_crash_report(report: CrashReport) -> None:
    """Print the counts, and at most 20 of the violations."""
    print_line(f"{report.name}:")
    for name, value in report.figures.items():
        print_line(f"  {name:<42} {value}")
    print_line(f"  {'violations':<42} {len(report.violations)}")
    for text in report.violations[:_MAX_SHOWN]:
        print_line(f"  violation: {text}")


def print_line(text: str) -> None:
    """Print a line without buffering, even if the output is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
