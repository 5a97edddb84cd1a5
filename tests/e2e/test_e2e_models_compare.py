"""Test `loosely models compare`, which runs two versions of a model in separate processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CATALOGUE = """
[tried]
implementation = "tried"
description = "A model that the test writes."
media_types = ["text/plain"]
options = {scale = 1.0}

[tried."2"]
options = {scale = 1.5}

[tried."3"]
implementation = "missing"
"""
CODE = """
class Infer:
    accepts = "text"

    def __init__(self, scale):
        print("printed by the model")
        self.scale = scale

    def __call__(self, item):
        if item == "raise":
            raise RuntimeError("a defect")
        label = "other" if item == "odd" and self.scale > 1 else item
        return {"labels": [{"label": label, "score": len(item) * self.scale}]}
"""


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "tried.py").write_text(CODE, encoding="utf-8")
    (folder / "models.toml").write_text(CATALOGUE, encoding="utf-8")
    inputs = folder / "inputs"
    inputs.mkdir()
    for name in ("even", "odd", "raise"):
        (inputs / f"{name}.txt").write_text(name, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "loosely", "models", "compare", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "MODEL_CATALOGUE": "models.toml",
            "COLUMNS": "100",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_models_compare_command_shows_agreement_and_latency_and_memory_of_two_versions(
    tmp_path: Path,
) -> None:
    # A shell replaces inputs/*.txt by several arguments.
    files = [f"inputs/{name}.txt" for name in ("even", "odd", "raise")]
    done = compare(tmp_path, "tried", "1", "2", "--on", *files)
    assert done.returncode == 0, done.stderr
    rows = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert {
        "tried:1 tried:2",
        "same result 1 of 3",
        "same except numbers 2 of 3; numbers differ by at most 2",
        "same first text 1 of 2",
        "refused or failed files 1 1",
        "odd.txt odd other",
    } <= rows
    for title in ("load", "latency, median", "memory of the model", "memory of the process"):
        assert any(row.startswith(title) for row in rows), title


def test_the_models_compare_command_prints_json_lines(tmp_path: Path) -> None:
    done = compare(tmp_path, "tried", "2", "1", "--on", "inputs", "--json")
    assert done.returncode == 0, done.stderr
    *files, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(file["file"]).name for file in files] == ["even.txt", "odd.txt", "raise.txt"]
    assert (last["files"], last["same"], list(last["versions"])) == (3, 1, ["tried:2", "tried:1"])


@pytest.mark.parametrize(
    ("version", "code", "message"),
    [
        ("3", 1, "tried:3: model-failed"),
        ("4", 2, "there is no model named 'tried:4'; did you mean"),
    ],
)
def test_the_models_compare_command_names_the_model_version_that_cannot_run(
    tmp_path: Path, version: str, code: int, message: str
) -> None:
    done = compare(tmp_path, "tried", "1", version, "--on", "inputs")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
