"""Format the host's output for a terminal: coloured log lines, and the list of the functions.

The colours are omitted if the output is not a terminal, or if the environment variable NO_COLOR is
set (https://no-color.org).
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from emulator.functions.catalogue import FunctionCatalogue

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_RED, _GREEN, _YELLOW, _CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_COLOURS = {
    logging.DEBUG: _DIM,
    logging.INFO: _CYAN,
    logging.WARNING: _YELLOW,
    logging.ERROR: _RED,
    logging.CRITICAL: _RED,
}


def wants_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether `stream` is a terminal with colours (NO_COLOR is not set, nor TERM `dumb`)."""
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


class ColourFormatter(logging.Formatter):
    """Formats log lines in the colour of their level, with a dim time."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the coloured lines of a record."""
        text = super().format(record)
        colour = _COLOURS.get(record.levelno, "")
        time, rest = text[: len(record.asctime)], text[len(record.asctime) :]
        return f"{_DIM}{time}{_RESET}{colour}{rest}{_RESET}"


def list_functions(catalogue: "FunctionCatalogue", url: str, *, has_colour: bool) -> str:
    """Return the list of an app's functions, in the layout of Core Tools.

    Functions with HTTP triggers come first, then the others, and at last the disabled ones.
    """
    lines = []
    served = {route.function for route in catalogue.routes.routes}
    for route in catalogue.routes.routes:
        methods = f"[{','.join(sorted(route.methods))}] " if route.methods else ""
        lines.append((route.function, f"{methods}{url}/{route.template}", _GREEN))
    for function in catalogue.functions:
        name = function["name"]
        if name not in served and name not in catalogue.disabled:
            trigger = next(b["type"] for b in function["bindings"] if b["type"].endswith("Trigger"))
            lines.append((name, trigger, ""))
    text = f"\n{_paint('Functions:', _YELLOW, has_colour)}\n\n" if lines else ""
    for name, description, colour in lines:
        label = _paint(f"{name}:", _YELLOW, has_colour)
        text += f"\t{label} {_paint(description, colour, has_colour)}\n\n"
    for name in catalogue.disabled:
        text += f"{_paint(f'Function {name} is disabled.', _YELLOW, has_colour)}\n"
    return text


def _paint(text: str, colour: str, has_colour: bool) -> str:
    return f"{colour}{text}{_RESET}" if has_colour and colour else text
