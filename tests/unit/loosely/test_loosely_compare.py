"""Test the comparison of two versions of a model on the same files."""

from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from loosely.cli.compare import Comparison, VersionRun, find_files

CAT = {"labels": [{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}]}
CLOSE = {"labels": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]}
REORDERED = {"labels": [{"label": "cat", "score": 0.5}, {"label": "fox", "score": 0.25}]}
DOG = {"labels": [{"label": "dog", "score": 0.5}, {"label": "cat", "score": 0.25}]}


def result(value: Any) -> dict[str, Any]:
    return {"event": "result", "prepare_ms": 1, "run_ms": 2, "finish_ms": 3, "json": value}


def picture(data: str) -> dict[str, Any]:
    times = {"prepare_ms": 1, "run_ms": 2, "finish_ms": 3}
    return {"event": "result", **times, "media_type": "image/png", "base64": data, "size_bytes": 9}


REFUSED = {"event": "refused", "code": "invalid-input", "detail": "it is not a picture"}


def run(name: str, *results: dict[str, Any]) -> VersionRun:
    loaded = {
        "event": "loaded",
        "seconds": 1.5,
        "resident_bytes": 2 * 1024 * 1024,
        "process_bytes": 80 * 1024 * 1024,
    }
    return VersionRun.from_lines(name, [loaded, *results, {"event": "batch", "peak_bytes": 1024}])


@pytest.mark.parametrize(
    ("one", "other", "is_same", "largest_difference", "has_same_text"),
    [
        (result(CAT), result(CAT), True, 0.0, True),
        (result(CAT), result(CLOSE), False, 0.25, True),
        (result(CAT), result(REORDERED), False, None, True),
        (result(CAT), result(DOG), False, None, False),
        (result({"answer": 3}), result({"answer": 5}), False, 2.0, None),
        (result({"found": True}), result({"found": 1}), False, None, None),
        (result([1, 2]), result([1]), False, None, None),
        (result({"a": 1}), result({"b": 1}), False, None, None),
        (result([None, 1]), result([None, 1.0]), True, 0.0, None),
        (picture("aaaa"), picture("aaaa"), True, 0.0, None),
        (picture("aaaa"), picture("bbbb"), False, None, None),
        (REFUSED, REFUSED, True, 0.0, None),
        (REFUSED, result(CAT), False, None, False),
    ],
)
def test_the_comparison_of_two_results_shows_whether_they_are_equal_and_how_they_differ(
    one: dict[str, Any],
    other: dict[str, Any],
    is_same: bool,
    largest_difference: float | None,
    has_same_text: bool | None,
) -> None:
    comparison = Comparison(run("m:1", one), run("m:2", other), (Path("a"),))
    [agreement] = comparison.agreements()
    assert agreement.is_same is is_same
    assert agreement.largest_difference == largest_difference
    assert agreement.has_same_text is has_same_text


def test_a_comparison_counts_equal_results_and_shows_latency_and_memory_of_each_version() -> None:
    first = run("m:1", result(CAT), result(CAT), REFUSED)
    second = run("m:2", result(CLOSE), result(DOG), REFUSED)
    *files, last = Comparison(first, second, (Path("a"), Path("b"), Path("c"))).documents()
    assert [file["file"] for file in files] == ["a", "b", "c"]
    assert files[0]["results"] == {"m:1": result(CAT), "m:2": result(CLOSE)}
    assert (last["files"], last["same"], last["same_except_numbers"], last["same_text"]) == (
        *(3, 1, 2),
        1,
    )
    assert last["versions"]["m:2"] == {
        "load_seconds": 1.5,
        "median_ms": 6,
        "slowest_ms": 6,
        "model_bytes": 2 * 1024 * 1024,
        "job_bytes": 1024,
        "process_bytes": 80 * 1024 * 1024,
        "refused": 1,
    }


def test_a_comparison_shows_the_reason_why_both_model_versions_refuse_a_file() -> None:
    comparison = Comparison(run("m:1", REFUSED), run("m:2", REFUSED), (Path("a"),))
    console = Console(width=200)
    with console.capture() as shown:
        console.print(comparison.view())
    assert shown.get().count("invalid-input: it is not a picture") == 2


def test_the_compare_command_finds_the_given_files_and_the_files_in_the_given_folders(
    tmp_path: Path,
) -> None:
    for name in ("b.txt", "a.txt", ".hidden"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    inside = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert find_files([tmp_path]) == inside
    assert find_files([tmp_path / "b.txt", tmp_path]) == [tmp_path / "b.txt", *inside]
    for missing in (tmp_path / "no", tmp_path / "empty"):
        with pytest.raises(typer.BadParameter):
            find_files([missing])
