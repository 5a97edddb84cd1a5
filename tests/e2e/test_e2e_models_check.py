"""`loosely models check`: one model alone, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ENTRY = """
[tried]
task = "test"
description = "What a test writes beside it."
implementation = "tried"
queue = "tried"
media_types = ["text/plain", "image/png"]
max_input_bytes = 1_000
deadline_seconds = 60
max_deadline_seconds = 3600
max_batch_size = 6
max_wait_ms = 5
lock_seconds = 10
max_delivery_count = 3
"""
CODE = """
class Infer:
    accepts = "text"

    def __call__(self, item):
        if item == "raise":
            raise RuntimeError("a defect")
        return {"characters": len(item)}
"""


def returning(result: str) -> str:
    return f"class Infer:\n    accepts = 'text'\n    def __call__(self, item): return {result}"


def checked(
    folder: Path, *arguments: str, code: str = CODE, more: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder that has the model `tried`."""
    (folder / "tried.py").write_text(code, encoding="utf-8")
    (folder / "models.toml").write_text(ENTRY + more, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "loosely", "models", "check", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "MODEL_CATALOGUE": "models.toml",
            "COLUMNS": "100",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def text(folder: Path, content: str) -> str:
    file = folder / "input.txt"
    file.write_text(content, encoding="utf-8")
    return "input.txt"


def test_result_time_and_memory_are_shown_for_each_batch(tmp_path: Path) -> None:
    done = checked(tmp_path, "tried", text(tmp_path, "seven !"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "tried loaded in" in done.stdout
    assert '"characters": 7' in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if "ms" in row] == ["1", "2", "4", "6"]


@pytest.mark.torch
def test_a_network_shows_what_it_holds_and_what_its_batches_take(
    tmp_path: Path, pictures: Path
) -> None:
    done = checked(
        tmp_path,
        *("classifier", str(pictures / "chelsea.jpg"), "--json"),
        MODEL_CATALOGUE=str(ROOT / "functions/contract/models.toml"),
    )
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["loaded", "result", *["batch"] * 4]
    loaded, result, *batches = lines
    assert 15e6 < loaded["resident_bytes"] < 30e6 < loaded["process_bytes"]
    assert len(result["json"]["labels"]) == 5
    peaks = [batch["peak_bytes"] for batch in batches]
    assert peaks[0] > 1e6
    assert peaks[-1] == pytest.approx(8 * peaks[0], rel=0.3)


def test_what_a_model_declares_is_told_once(tmp_path: Path) -> None:
    code = f"{CODE}\n    def memory_bytes(self, cost): return 1000 + int(10 * cost)"
    done = checked(tmp_path, "tried", text(tmp_path, "x"), "--json", code=code)
    loaded, _, *batches = [json.loads(line) for line in done.stdout.splitlines()]
    assert loaded["resident_bytes"] == 1000
    assert [batch["peak_bytes"] for batch in batches] == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("content", "code", "more", "said"),
    [
        ("raise", CODE, "", "inference-failed: tried raised RuntimeError"),
        ("\udc80", CODE, "", "invalid-input: the text is not UTF-8"),
        ("x", "raise OSError", "", "model-failed: tried raised OSError"),
        ("x", "exit('no labels')", "", "SystemExit: no labels\nmodel-failed: tried raised"),
        ("x", returning("float('nan')"), "", "inference-failed: the model's result cannot be"),
        ("x", returning("{1, 2}"), "", "JSON: Object of type set is not JSON serializable"),
        ("x", returning("'x' * 2**26"), "", "result-too-large: the result has 67108866 bytes"),
        ("x", returning("exit(3)"), "", "inference-failed: tried raised SystemExit"),
        ("x", f"{CODE}\n    def sample(self): return 1", "", "inference-failed: tried raised Type"),
        ("x", CODE, "options = {a = 1}", "model-unfit: tried.options.a: tried takes no"),
        (
            *("x", "class Infer:\n    def __init__(self, weights): pass"),
            f'weights = "blob:weights/a"\nweights_sha256 = "{"ab" * 32}"',
            "weights-away: PAYLOAD_STORAGE is not set",
        ),
    ],
)
def test_what_is_wrong_is_said_by_its_code(
    tmp_path: Path, content: str, code: str, more: str, said: str
) -> None:
    file = tmp_path / "input.txt"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    done = checked(tmp_path, "tried", str(file), code=code, more=more)
    assert done.returncode == 1, done
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trid", "input.txt"), "did you mean tried"),
        (("tried", "nowhere.txt"), "nowhere.txt"),
        (("tried", "long.txt"), "2000 bytes; tried takes 1000"),
    ],
)
def test_wrong_usage_ends_with_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    text(tmp_path, "x")
    (tmp_path / "long.txt").write_text("x" * 2000)
    done = checked(tmp_path, *arguments)
    assert done.returncode == 2, done
    assert said in done.stderr
