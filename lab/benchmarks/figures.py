"""The report of a benchmark: a table of measured values and their targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the report: what was measured, the measured value, and its target.

    `target` is empty if the value has no target.
    """

    name: str
    value: str
    target: str = ""
    is_met: bool = True


def print_report(title: str, figures: Sequence[Figure]) -> int:
    """Print the report as a table. Return the exit code: 1 if a target was missed, otherwise 0."""
    table = Table(title=title)
    for column in ("what", "measured", "target", ""):
        table.add_column(column, overflow="fold")
    for figure in figures:
        verdict = ("✓" if figure.is_met else "missed") if figure.target else ""
        table.add_row(figure.name, figure.value, figure.target, verdict)
    Console().print(table)
    return 0 if all(figure.is_met for figure in figures) else 1
