"""Draw a chart of a simulation: the numbers of waiting jobs, ready workers and nodes."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lab.capacity.simulation import SimulationSample

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ROWS = 4
_LABEL_CELLS = 16
_SIZE = (1200, 720)
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 90, 30, 64, 48, 40
_INK, _PALE = (40, 44, 52), (222, 224, 228)
_COLOURS = ((196, 78, 82), (76, 114, 176), (85, 140, 90))
_TEXT_PIXELS = 18

#: The name of each band of the chart, and the function that reads its value from a sample.
BANDS: tuple[tuple[str, Callable[[SimulationSample], int]], ...] = (
    ("jobs waiting", lambda sample: sample.waiting),
    ("workers ready", lambda sample: sample.ready),
    ("nodes", lambda sample: sample.nodes),
)


def draw_text(samples: Sequence[SimulationSample], columns: int = 72) -> list[str]:
    """Return the lines of a text chart of the samples, with up to ``columns`` columns of values.

    Each column shows the highest value of several successive samples.
    """
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
    # Make every value above 0 visible.
    return 0 if value == 0 else max(1, round(value / most * _ROWS * 8))


def _time_axis(duration_seconds: float, columns: int) -> str:
    marks = [" "] * (columns + 8)
    for quarter in range(5):
        text = format_duration(duration_seconds * quarter / 4)
        at = min(round(columns * quarter / 4), columns - 1)
        marks[at : at + len(text)] = text
    return " " * (_LABEL_CELLS + 8) + "".join(marks).rstrip()


def format_duration(seconds: float) -> str:
    """Format a duration in minutes if it is shorter than two hours, otherwise in hours."""
    if seconds < 2 * 3600:
        return f"{seconds / 60:g} min" if seconds else "0"
    return f"{seconds / 3600:g} h"


def draw_picture(samples: Sequence[SimulationSample], title: str, path: Path) -> None:
    """Write a chart with this title as a PNG file. Raises OSError if the file cannot be written."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - only pictures need Pillow

    image = Image.new("RGB", _SIZE, "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(_TEXT_PIXELS)
    pen.text((_LEFT, 16), title, _INK)
    height = (_SIZE[1] - _TOP - _BOTTOM - _GAP * (len(BANDS) - 1)) // len(BANDS)
    for number, ((name, read), colour) in enumerate(zip(BANDS, _COLOURS, strict=True)):
        top = _TOP + number * (height + _GAP)
        _draw_band(pen, name, [read(sample) for sample in samples], (top, top + height), colour)
    _draw_time(pen, samples[-1].at_seconds)
    image.save(path, "PNG")


def _draw_band(
    pen: "ImageDraw",
    name: str,
    values: Sequence[int],
    rows: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    top, bottom = rows
    most = max(*values, 1)
    pen.line((_LEFT, bottom, _SIZE[0] - _RIGHT, bottom), _INK)
    pen.line((_LEFT, top, _SIZE[0] - _RIGHT, top), _PALE)
    pen.text((_LEFT - 10, top), str(most), _INK, anchor="rm")
    pen.text((_LEFT - 10, bottom), "0", _INK, anchor="rm")
    pen.text((_LEFT + 8, top + 4), name, colour)
    steps: list[tuple[float, float]] = []
    for number, value in enumerate(values):
        x, y = _x(number / (len(values) - 1)), bottom - (bottom - top) * value / most
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    pen.line(steps, colour, width=2)


def _draw_time(pen: "ImageDraw", duration_seconds: float) -> None:
    for quarter in range(5):
        at = (_x(quarter / 4), _SIZE[1] - _BOTTOM + 18)
        pen.text(at, format_duration(duration_seconds * quarter / 4), _INK, anchor="mm")


def _x(share: float) -> float:
    return _LEFT + share * (_SIZE[0] - _LEFT - _RIGHT)
