"""Test `loosely models check`, which runs one model in a separate process."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import ROOT, run_loosely

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(120)]

ENTRY = """
[tried]
task = "test"
description = "A model that the test writes."
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
BATCHES = """
class Infer:
    accepts = "text"

    def preprocess(self, text):
        return text

    def __call__(self, batch):
        return [{"characters": len(text)} for text in batch]
"""
TOGETHER = """
class Infer:
    accepts = "text"

    async def __call__(self, text, context):
        context.progress(0.5)
        return {"characters": len(text)}
"""
TOGETHER_ENTRY = "reports_progress = true\nmax_concurrent_jobs = 3"


def model_that_returns(result: str) -> str:
    return f"class Infer:\n    accepts = 'text'\n    def __call__(self, item): return {result}"


def run_check(
    folder: Path, *arguments: str, code: str = CODE, more: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Write a model with the name `tried` into `folder`, and run `loosely models check` there."""
    (folder / "tried.py").write_text(code, encoding="utf-8")
    (folder / "models.toml").write_text(ENTRY + more, encoding="utf-8")
    return loosely(folder, "check", *arguments, **environment)


def loosely(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"MODEL_CATALOGUE": "models.toml", "COLUMNS": "100", **environment}
    return run_loosely("models", *arguments, folder=folder, **settings)


def write_input(folder: Path, content: str) -> str:
    file = folder / "input.txt"
    file.write_text(content, encoding="utf-8")
    return "input.txt"


@pytest.mark.parametrize(
    ("code", "more", "sizes"),
    [
        (CODE, "", ["1"]),
        (BATCHES, "", ["1", "2", "4", "6"]),
        (TOGETHER, TOGETHER_ENTRY, ["1", "2", "3"]),
    ],
    ids=["item", "batch", "concurrent"],
)
def test_check_prints_results_and_times(
    tmp_path: Path, code: str, more: str, sizes: list[str]
) -> None:
    done = run_check(tmp_path, "tried", write_input(tmp_path, "seven !"), code=code, more=more)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "ing " not in line]
    assert "tried loaded in" in done.stdout
    assert '"characters": 7' in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if "ms" in row] == sizes


@pytest.mark.torch
def test_check_measures_a_networks_memory(tmp_path: Path, pictures: Path) -> None:
    done = run_check(
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


def test_check_reports_declared_memory(tmp_path: Path) -> None:
    code = f"{BATCHES}\n    def memory_bytes(self, cost): return 1000 + int(10 * cost)"
    done = run_check(tmp_path, "tried", write_input(tmp_path, "x"), "--json", code=code)
    loaded, _, *batches = [json.loads(line) for line in done.stdout.splitlines()]
    assert loaded["resident_bytes"] == 1000
    assert [batch["peak_bytes"] for batch in batches] == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("content", "code", "more", "message"),
    [
        ("raise", CODE, "", "inference-failed: tried raised RuntimeError"),
        ("\udc80", CODE, "", "invalid-input: the text is not UTF-8"),
        ("x", "raise OSError", "", "model-failed: tried raised OSError"),
        ("x", "exit('no labels')", "", "SystemExit: no labels\nmodel-failed: tried raised"),
        (
            "x",
            model_that_returns("float('nan')"),
            "",
            "inference-failed: the model's result cannot be",
        ),
        (
            "x",
            model_that_returns("{1, 2}"),
            "",
            "result is of type set; return a number, text, list or dict",
        ),
        (
            "x",
            model_that_returns("'x' * 2**26"),
            "",
            "result-too-large: the result has 67108866 bytes",
        ),
        ("x", model_that_returns("exit(3)"), "", "inference-failed: tried raised SystemExit"),
        ("x", f"{CODE}\n    def sample(self): return 1", "", "inference-failed: tried raised Type"),
        (
            "x",
            CODE,
            "options = {a = 1}",
            "model-unfit: tried.options.a: the constructor of tried has no",
        ),
        (
            *("x", "class Infer:\n    def __init__(self, weights): pass"),
            f'weights = "blob:weights/a"\nweights_sha256 = "{"ab" * 32}"',
            "weights-away: PAYLOAD_STORAGE is not set",
        ),
    ],
)
def test_check_prints_a_code_for_each_fault(
    tmp_path: Path, content: str, code: str, more: str, message: str
) -> None:
    file = tmp_path / "input.txt"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    done = run_check(tmp_path, "tried", str(file), code=code, more=more)
    assert done.returncode == 1, done
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trid", "input.txt"), "did you mean tried"),
        (("tried", "nowhere.txt"), "nowhere.txt"),
        (("tried", "long.txt"), "has 2000 bytes, but tried accepts at most 1000"),
        (("tried", "input.txt", "--param", "count"), "expected NAME=VALUE, found 'count'"),
        (("tried", "input.txt", "--param", "count=NaN"), "parameters: NaN is not allowed in JSON"),
    ],
)
def test_check_exits_with_2_on_invalid_arguments(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_input(tmp_path, "x")
    (tmp_path / "long.txt").write_text("x" * 2000)
    done = run_check(tmp_path, *arguments)
    assert done.returncode == 2, done
    assert message in done.stderr


REPEATS = """
from typing import Annotated

from worker.models import Range

class Infer:
    accepts = "text"

    def preprocess(
        self, text, *, count: Annotated[int, Range(1, 5)], names: list[str] | None = None
    ):
        return text * count, names

    def __call__(self, batch):
        return [{"text": text, "names": names} for text, names in batch]
"""
DECLARED = """
parameters.count = {type = "integer", minimum = 1, maximum = 5}
parameters.names = {type = "array", items = {type = "string"}}
"""


@pytest.mark.parametrize("load", [(), ("--load", "1")])
def test_check_passes_parameters(tmp_path: Path, load: tuple[str, ...]) -> None:
    given = ["--param", "count=3", "--param", 'names=["a"]']
    arguments = ["tried", write_input(tmp_path, "ab"), *given, "--json", *load]
    # Each job needs the parameter `count`, so those of a load would fail without it.
    done = run_check(tmp_path, *arguments, code=REPEATS, more=f"uses_gpu = false{DECLARED}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[1]["json"] == {"text": "ababab", "names": ["a"]}
    assert lines[2]["event"] == ("load" if load else "batch")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "count=9",
            "invalid-input: parameters/count: expected a whole number from 1 to 5, found 9",
        ),
        ("names=[1]", "invalid-input: parameters/names/0: expected a string, found 1"),
        ("cuont=1", "invalid-input: parameters/cuont: the model has no such parameter; it has"),
    ],
)
def test_check_reports_a_wrong_parameter_unloaded(tmp_path: Path, given: str, message: str) -> None:
    arguments = ["tried", write_input(tmp_path, "ab"), "--param", given, "--load", "2"]
    code = f"raise OSError('the model must not be loaded')\n{REPEATS}"
    done = run_check(tmp_path, *arguments, code=code, more=DECLARED)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert "--param" in done.stderr
    done = run_check(tmp_path, *arguments, "--json", code=code, more=DECLARED)
    (line,) = (json.loads(each) for each in done.stdout.splitlines())
    name = given.partition("=")[0]
    assert line["code"] == "invalid-input"
    assert line["pointer"].startswith(f"/parameters/{name}")


def test_check_reports_a_missing_parameter(tmp_path: Path) -> None:
    file = write_input(tmp_path, "ab")
    done = run_check(tmp_path, "tried", file, code=REPEATS, more=DECLARED)
    assert done.returncode == 1
    assert "invalid-input: parameters/count: the parameter is missing" in done.stderr


def test_load_suggests_a_batch_size_and_a_cost(tmp_path: Path) -> None:
    code = """
import time

class Infer:
    accepts = "text"

    def preprocess(self, text):
        return len(text)

    def __call__(self, items):
        time.sleep(0.05)
        return [{"characters": item} for item in items]
"""
    more = 'uses_gpu = true\nwarm = "Mon-Fri 08:00-18:00 Europe/Berlin"'
    done = run_check(
        tmp_path, "tried", write_input(tmp_path, "abc"), "--load", "8", code=code, more=more
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "ing " not in line]
    assert "8 callers, each with one job at a time:" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = {
        words[0]: words for words in lines if words[:1] and words[0].isdecimal() and "ms" in words
    }
    assert list(rows) == ["1", "2", "4", "8"]
    # A batch takes 50 ms, whatever its size.
    assert float(rows["8"][2]) > 2 * float(rows["1"][2])
    entry = done.stdout.partition("For the model's entry in the catalogue:")[2]
    pasted = tomllib.loads(entry.partition("To estimate the cost")[0])
    assert pasted.keys() == {"max_batch_size", "max_wait_ms"}
    assert pasted["max_batch_size"] in {4, 8}
    assert "./dev cost --load office:480 --model-load" in done.stdout


def test_load_reports_a_job_that_fails(tmp_path: Path) -> None:
    code = """
class Infer:
    accepts = "text"
    calls = 0

    def __call__(self, item):
        self.calls += 1
        if self.calls > 20:
            raise RuntimeError("a leak")
        return {"characters": len(item)}
"""
    file = write_input(tmp_path, "abc")
    done = run_check(tmp_path, "tried", file, "--load", "2", "--json", code=code)
    assert done.returncode == 1, done
    failed = json.loads(done.stdout.splitlines()[-1])
    assert (failed["event"], failed["code"]) == ("failed", "inference-failed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--load", "0"), "--load"),
        (("--load", "many"), "--load"),
    ],
)
def test_load_refuses_invalid_options(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = run_check(tmp_path, "tried", write_input(tmp_path, "abc"), *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_check_redirects_the_models_output(tmp_path: Path) -> None:
    code = """
import os
print("printed at import")

class Infer:
    accepts = "text"

    def __call__(self, item):
        print("printed in a call")
        os.write(1, b"written by a library in C\\n")
        return {"characters": len(item)}
"""
    done = run_check(tmp_path, "tried", write_input(tmp_path, "abc"), "--json", code=code)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events[:2] == ["loaded", "result"]
    for text in ("printed at import", "printed in a call", "written by a library in C"):
        assert text in done.stderr


def test_describe_prints_parameters_as_toml(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY, encoding="utf-8")
    (tmp_path / "tried.py").write_text(
        """
from typing import Annotated, Literal
from worker.models import Range

print("printed at import")

class Infer:
    accepts = "text"

    def __call__(self, item, *, top: Annotated[int, Range(1), "How many."] = 3):
        return item[:top]
""",
        encoding="utf-8",
    )
    done = loosely(tmp_path, "describe", "tried")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout) == {
        "parameters": {
            "top": {"type": "integer", "minimum": 1, "description": "How many.", "default": 3}
        }
    }


def test_show_fills_in_defaults(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY, encoding="utf-8")
    done = loosely(tmp_path, "show", "tried")
    assert done.returncode == 0, done.stderr
    assert "[tried]\n" in done.stdout
    assert "max_upload_bytes = 1000\n" in done.stdout


def test_check_ends_a_step_that_hangs(tmp_path: Path) -> None:
    code = (
        "class Infer:\n    accepts = 'text'\n    def __call__(self, item):\n        while 1: pass"
    )
    file = write_input(tmp_path, "four")
    done = run_check(tmp_path, "tried", file, "--timeout", "20", code=code)
    assert done.returncode == 1
    steps = [line for line in done.stderr.splitlines() if not line.startswith("still")]
    assert steps[:2] == ["loading tried", "running tried"]
    assert "still running tried after 10 s" in done.stderr
    assert "timed-out: running tried took longer than 20 s; --timeout allows more" in done.stderr


def test_check_fails_if_the_process_ends(tmp_path: Path) -> None:
    code = (
        "import os\nclass Infer:\n    accepts = 'text'\n"
        "    def __call__(self, item):\n        os._exit(0)\n"
    )
    done = run_check(tmp_path, "tried", write_input(tmp_path, "four"), code=code)
    assert done.returncode == 1
    assert "ended with the exit code 0 while running tried" in done.stderr
