"""The same chart as a picture. Pillow draws it: a plotting library would be the largest part."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loosely.planning.chart import BANDS, span
from loosely.planning.outcome import Sample

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_SIZE = (1200, 720)
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 90, 30, 64, 48, 40
_INK, _PALE = (40, 44, 52), (222, 224, 228)
_COLOURS = ((196, 78, 82), (76, 114, 176), (85, 140, 90))
_TEXT_PIXELS = 18


def draw(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Write the chart of ``samples`` to ``path`` as PNG; raises OSError where it cannot."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - an extra, for this alone

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
        pen.text(at, span(duration_seconds * quarter / 4), _INK, anchor="mm")


def _x(share: float) -> float:
    return _LEFT + share * (_SIZE[0] - _LEFT - _RIGHT)
