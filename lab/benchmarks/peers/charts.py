"""Draw bar charts as SVG files. Their colours follow the reader's light or dark colour scheme."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABEL_WIDTH, _VALUE_WIDTH = 720, 210, 150
_BAR_HEIGHT, _BAR_GAP, _TOP, _BOTTOM = 16, 10, 52, 14
_STYLE = """
 text { font: 13px system-ui, sans-serif; fill: #1f2328 }
 .title { font-weight: 600; font-size: 15px }
 .note { fill: #59636e; font-size: 12px }
 .peer { fill: #9aa7b5 } .ours { fill: #0969da } .second { opacity: .6 }
 @media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .peer { fill: #656f7b } .ours { fill: #4493f8 }
 }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a chart: a label, and one or more bars with a text after each bar.

    `lengths` has the length of each bar, and `texts` has the text after each bar. The length None
    means infinite: the bar fills the width of the chart.
    """

    label: str
    lengths: Sequence[float | None]
    texts: Sequence[str]
    is_ours: bool = False


def bar_chart(title: str, note: str, bars: Sequence[Bar]) -> str:
    """Return a chart with horizontal bars as the text of an SVG file.

    The text `note` is shown below the title.
    """
    room = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    longest = max((length or 0.0 for bar in bars for length in bar.lengths), default=0.0) or 1.0
    rows: list[str] = []
    top = _TOP
    for bar in bars:
        height = _BAR_HEIGHT * len(bar.lengths)
        rows.append(
            f'<text x="{_LABEL_WIDTH - 10}" y="{top + height / 2 + 4:g}" text-anchor="end">'
            f"{escape(bar.label)}</text>"
        )
        for number, (length, text) in enumerate(zip(bar.lengths, bar.texts, strict=True)):
            width = room if length is None else max(1.0, room * length / longest)
            kind = ("ours" if bar.is_ours else "peer") + (" second" if number else "")
            y = top + number * _BAR_HEIGHT
            rows.append(
                f'<rect class="{kind}" x="{_LABEL_WIDTH}" y="{y}" width="{width:.1f}" '
                f'height="{_BAR_HEIGHT - 2}" rx="2"/>'
                f'<text x="{_LABEL_WIDTH + width + 6:.1f}" y="{y + 12}">{escape(text)}</text>'
            )
        top += height + _BAR_GAP
    height = top - _BAR_GAP + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">\n'
        f"<style>{_STYLE}</style>\n"
        f'<text class="title" x="10" y="20">{escape(title)}</text>\n'
        f'<text class="note" x="10" y="39">{escape(note)}</text>\n' + "\n".join(rows) + "\n</svg>\n"
    )
