"""What a benchmark reports: figures, the targets they are held to, and one table of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: what was measured, and what it should be at this stage."""

    what: str
    value: str
    target: str = ""
    met: bool = True


def report(title: str, figures: Sequence[Figure]) -> int:
    """Print the table; the exit code, 1 where a target was missed."""
    table = Table(title=title)
    for column in ("what", "measured", "target", ""):
        table.add_column(column, overflow="fold")
    for figure in figures:
        verdict = ("✓" if figure.met else "missed") if figure.target else ""
        table.add_row(figure.what, figure.value, figure.target, verdict)
    Console().print(table)
    return 0 if all(figure.met for figure in figures) else 1
