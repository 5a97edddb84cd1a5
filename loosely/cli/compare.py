"""Compare the results, the latency and the memory of two versions of a model."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.cli.output import printable

_MEBIBYTE: Final = 1024 * 1024
_SHOWN_FILES: Final = 20

Line = Mapping[str, Any]


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the absolute paths of the given files and of the files directly in the given folders.

    The files of a folder are sorted by name. Hidden files of a folder are left out.

    Raises:
        typer.BadParameter: A path does not exist, or there are no files.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="--on")
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [each.resolve() for each in found if each.is_file() and each.name[0] != "."]
    if not files:
        raise typer.BadParameter(
            "the given paths contain no files: give files, or folders that contain files",
            param_hint="--on",
        )
    return files


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the results of two versions for one file agree.

    Attributes:
        is_same: Whether the results are equal.
        largest_difference: The largest difference between two numbers, if the results differ only
            in numbers; otherwise None.
        has_same_text: Whether the first string in one result is equal to the first string in the
            other result. In a classifier's result, this is the best label. None if neither result
            contains a string.
    """

    is_same: bool
    largest_difference: float | None
    has_same_text: bool | None


@dataclass(frozen=True, slots=True)
class VersionRun:
    """The parsed JSON lines that `worker.check --results` prints for one version of a model.

    Attributes:
        name: The name of the version.
        loaded: The line about the loaded model.
        results: One line for each file: the result, or the error with which the file was refused.
        batch: The line about a measured batch; None if all files were refused.
    """

    name: str
    loaded: Line
    results: tuple[Line, ...]
    batch: Line | None

    @classmethod
    def from_lines(cls, name: str, lines: Sequence[Line]) -> Self:
        """Create the run of the version ``name`` from the lines that `worker.check` has printed."""
        events = [line["event"] for line in lines]
        return cls(
            name,
            lines[events.index("loaded")],
            tuple(line for line in lines if line["event"] in {"result", "refused"}),
            lines[events.index("batch")] if "batch" in events else None,
        )

    @property
    def latencies_ms(self) -> list[float]:
        """For each result, the milliseconds to prepare the input, run the model and finish."""
        parts = ("prepare_ms", "run_ms", "finish_ms")
        return [sum(line[part] for part in parts) for line in self.results if "run_ms" in line]

    def figures(self) -> dict[str, float | None]:
        """Return the latency, the memory and the number of refused files of this version."""
        times = self.latencies_ms
        return {
            "load_seconds": self.loaded["seconds"],
            "median_ms": statistics.median(times) if times else None,
            "slowest_ms": max(times, default=None),
            "model_bytes": self.loaded["resident_bytes"],
            "job_bytes": self.batch and self.batch["peak_bytes"],
            "process_bytes": self.loaded["process_bytes"],
            "refused": sum(line["event"] == "refused" for line in self.results),
        }


_ROWS: Final = (
    ("load_seconds", "load", "{:.1f} s", 1),
    ("median_ms", "latency, median", "{:.1f} ms", 1),
    ("slowest_ms", "latency, slowest", "{:.1f} ms", 1),
    ("model_bytes", "memory of the model", "{:.1f} MiB", _MEBIBYTE),
    ("job_bytes", "memory of one job", "{:.1f} MiB", _MEBIBYTE),
    ("process_bytes", "memory of the process", "{:.1f} MiB", _MEBIBYTE),
    ("refused", "refused or failed files", "{:.0f}", 1),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of two versions on the same files."""

    first: VersionRun
    second: VersionRun
    files: tuple[Path, ...]

    def agreements(self) -> list[Agreement]:
        """Return, for each file, how well the results of the two versions agree."""
        pairs = zip(self.first.results, self.second.results, strict=True)
        return [_compare(*pair) for pair in pairs]

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield a JSON object for each file, and then one object with the figures of both versions.

        These objects are the output of `loosely models compare --json`.
        """
        agreements = self.agreements()
        for file, one, other, agreement in zip(
            self.files, self.first.results, self.second.results, agreements, strict=True
        ):
            yield {
                "event": "file",
                "file": str(file),
                "is_same": agreement.is_same,
                "largest_difference": agreement.largest_difference,
                "has_same_text": agreement.has_same_text,
                "results": {self.first.name: one, self.second.name: other},
            }
        yield {
            "event": "comparison",
            "files": len(self.files),
            "same": sum(each.is_same for each in agreements),
            "same_except_numbers": sum(_is_close(each) for each in agreements),
            "same_text": sum(each.has_same_text is True for each in agreements),
            "versions": {run.name: run.figures() for run in (self.first, self.second)},
        }

    def view(self) -> RenderableType:
        """Return tables of the figures, of the agreement, and of the files whose results differ."""
        figures = Table("", self.first.name, self.second.name, box=None, pad_edge=False)
        for column in figures.columns[1:]:
            column.justify = "right"
        one, other = self.first.figures(), self.second.figures()
        for key, title, form, unit in _ROWS:
            figures.add_row(title, *(_format(each[key], form, unit) for each in (one, other)))
        agreements, count = self.agreements(), len(self.files)
        agreement = Table.grid(padding=(0, 2))
        agreement.add_row("same result", f"{sum(each.is_same for each in agreements)} of {count}")
        if close := [each.largest_difference or 0.0 for each in agreements if _is_close(each)]:
            text = f"{len(close)} of {count}; numbers differ by at most {max(close):.4g}"
            agreement.add_row("same except numbers", text)
        texts = [each.has_same_text for each in agreements if each.has_same_text is not None]
        if texts:
            agreement.add_row("same first text", f"{sum(texts)} of {len(texts)}")
        return Group(figures, Text(), agreement, *self._differences(agreements))

    def _differences(self, agreements: Sequence[Agreement]) -> Iterator[RenderableType]:
        table = Table("file", self.first.name, self.second.name, box=None, pad_edge=False)
        lines = zip(self.files, self.first.results, self.second.results, agreements, strict=True)
        different = [
            (file, one, other)
            for file, one, other, agreement in lines
            if "refused" in {one["event"], other["event"]}
            or not (
                agreement.is_same if agreement.has_same_text is None else agreement.has_same_text
            )
        ]
        for file, one, other in different[:_SHOWN_FILES]:
            table.add_row(
                *(Text(printable(each)) for each in (file.name, _short(one), _short(other)))
            )
        if different:
            yield Text()
            yield table
        if len(different) > _SHOWN_FILES:
            yield Text(f"and {len(different) - _SHOWN_FILES} more; --json prints all")


def _compare(one: Line, other: Line) -> Agreement:
    if one["event"] != other["event"]:
        return Agreement(is_same=False, largest_difference=None, has_same_text=False)
    texts = [_first_text(line.get("json")) for line in (one, other)]
    difference = _largest_difference(_content(one), _content(other))
    return Agreement(
        # Not by `==`, which treats `true` and 1 as equal.
        difference == 0,
        difference,
        None if texts == [None, None] else texts[0] == texts[1],
    )


def _content(line: Line) -> Any:
    """Return the part of a file's JSON line that is compared with the other version's line.

    This part is the result, with the named results if there are any. For a refused file, it is the
    error code.
    """
    if line["event"] == "refused":
        return line["code"]
    if "results" not in line:
        return _payload(line)
    return [_payload(line), {name: _payload(each) for name, each in line["results"].items()}]


def _payload(line: Line) -> Any:
    """Return the value of a JSON result, or the media type and the base64 of any other result."""
    return line["json"] if "json" in line else [line["media_type"], line["base64"]]


def _largest_difference(one: Any, other: Any) -> float | None:
    """Return the largest difference between corresponding numbers in two JSON values.

    Returns ``None`` if the values differ in more than numbers, for example in a text.
    """
    match one, other:
        case (bool() | str() | None, _) | (_, bool() | str() | None):
            return 0.0 if one is other or (type(one) is type(other) and one == other) else None
        case dict(), dict() if one.keys() == other.keys():
            pairs = [(one[key], other[key]) for key in one]
        case list(), list() if len(one) == len(other):
            pairs = list(zip(one, other, strict=True))
        case int() | float(), int() | float():
            return float(abs(one - other))
        case _:
            return None
    differences = [_largest_difference(*pair) for pair in pairs]
    if None in differences:
        return None
    return max((each for each in differences if each is not None), default=0.0)


def _first_text(value: Any) -> str | None:
    match value:
        case str():
            return value
        case dict():
            parts = list(value.values())
        case list():
            parts = value
        case _:
            return None
    return next((text for part in parts if (text := _first_text(part)) is not None), None)


def _is_close(agreement: Agreement) -> bool:
    return agreement.largest_difference is not None


def _short(line: Line) -> str:
    if line["event"] == "refused":
        return f"{line['code']}: {line['detail']}"[:60]
    if "json" not in line:
        return f"{line['media_type']}, {line['size_bytes']} bytes"
    text = _first_text(line["json"])
    return str(line["json"] if text is None else text)[:60]


def _format(value: float | None, form: str, unit: float) -> str:
    return "unknown" if value is None else form.format(value / unit)
