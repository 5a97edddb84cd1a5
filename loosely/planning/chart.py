"""A run drawn with block characters: what waited, what worked, what was paid for."""

from collections.abc import Callable, Sequence
from itertools import islice

from loosely.planning.outcome import Sample

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ROWS = 4
_LABEL_CELLS = 16

#: What is drawn, and how it is read from a sample.
BANDS: tuple[tuple[str, Callable[[Sample], int]], ...] = (
    ("jobs waiting", lambda sample: sample.waiting),
    ("workers ready", lambda sample: sample.ready),
    ("nodes", lambda sample: sample.nodes),
)


def chart(samples: Sequence[Sample], columns: int = 72) -> list[str]:
    """Return the lines of a chart; each column shows the highest value of its time."""
    lines: list[str] = []
    for name, read in BANDS:
        values = [read(sample) for sample in samples]
        lines += _band(name, _columns(values, columns))
    return [*lines, _time_axis(samples[-1].at_seconds, columns)]


def _columns(values: Sequence[int], columns: int) -> list[int]:
    size = -(-len(values) // columns)
    left = iter(values)
    found = []
    while part := list(islice(left, size)):
        found.append(max(part))
    return found


def _band(name: str, values: Sequence[int]) -> list[str]:
    most = max(*values, 1)
    heights = [_eighths(value, most) for value in values]
    lines = []
    for row in range(_ROWS - 1, -1, -1):
        label = name if row == _ROWS - 1 else ""
        scale = f"{most}" if row == _ROWS - 1 else "0" if row == 0 else ""
        cells = "".join(_EIGHTHS[min(max(height - 8 * row, 0), 8)] for height in heights)
        lines.append(f"{label:<{_LABEL_CELLS}}{scale:>6} │{cells}".rstrip())
    return lines


def _eighths(value: int, most: int) -> int:
    # What is there at all is seen.
    return 0 if value == 0 else max(1, round(value / most * _ROWS * 8))


def _time_axis(duration_seconds: float, columns: int) -> str:
    marks = [" "] * (columns + 8)
    for quarter in range(5):
        text = span(duration_seconds * quarter / 4)
        at = min(round(columns * quarter / 4), columns - 1)
        marks[at : at + len(text)] = text
    return " " * (_LABEL_CELLS + 8) + "".join(marks).rstrip()


def span(seconds: float) -> str:
    """Return a time in the unit that fits: 90 min, 6 h."""
    if seconds < 2 * 3600:
        return f"{seconds / 60:g} min" if seconds else "0"
    return f"{seconds / 3600:g} h"
