"""Choose at which random times a crash test kills a service, and print the test's report."""

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
        seed: The seed of the random numbers that determine the load and the times of the kills.
        engine: The durable engine of the Functions host: "local" or "azure-storage".
    """

    kills: int
    seed: int
    engine: str = "local"


@dataclass(frozen=True)
class CrashReport:
    """The result of one crash test.

    Attributes:
        name: The name of the tested service or client, such as "blobs" or "javascript".
        figures: The counts of operations and other values by name.
        violations: A sentence for each difference from what the service had acknowledged.
    """

    name: str
    figures: Mapping[str, object]
    violations: Sequence[str]


def plan_pauses(options: CrashOptions) -> list[float]:
    """Return for each kill how many seconds the service runs under load before the kill."""
    chance = random.Random(f"kills {options.seed}")
    return [
        chance.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS) for _ in range(options.kills)
    ]


def print_crash_report(report: CrashReport) -> None:
    """Print the counts of a crash test, the number of violations, and at most 20 violations."""
    print_line(f"{report.name}:")
    for name, value in report.figures.items():
        print_line(f"  {name:<42} {value}")
    print_line(f"  {'violations':<42} {len(report.violations)}")
    for text in report.violations[:_MAX_SHOWN]:
        print_line(f"  violation: {text}")


def print_line(text: str) -> None:
    """Print a line and flush the output, so that the line appears at once, even in a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
