"""Test the command `describe` for models without an entry, and `check` on progress reports."""

import io
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from contract.catalogue import Catalogue
from worker.tools import check, describe

TURN = """
from PIL import Image
class Infer:
    '''Turns pictures.

    More.'''
    def __call__(self, item: Image.Image, *, angle: int = 90) -> Image.Image: ...
"""
WRITE_BATCH = """
class Infer:
    accepts = "text"
    def preprocess(self, item): ...
    def __call__(self, batch: list[str]) -> list[str]: ...
"""
REPORT = """
from worker.models import Context
class Infer:
    def __call__(self, item: dict[str, float], context: Context) -> dict[str, str]:
        context.progress(item["fraction"])
        return {}
"""
TALK = """
from collections.abc import AsyncIterator
from worker.models import Context
class Infer:
    async def __call__(self, item: str, context: Context) -> AsyncIterator[str]:
        yield item
"""
TEXT = "text/plain"
PICTURES = ["image/jpeg", "image/png", "image/webp"]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "turn": (
        TURN,
        {
            "description": "Turns pictures.",
            "media_types": PICTURES,
            "result_media_type": "image/png",
            "parameters": {"angle": {"type": "integer", "default": 90}},
        },
    ),
    "write_batch": (WRITE_BATCH, {"media_types": [TEXT], "result_media_type": TEXT}),
    "talk": (
        TALK,
        {"media_types": [TEXT], "result_media_type": TEXT, "reports_progress": True},
    ),
    "report": (REPORT, {"media_types": ["application/json"], "reports_progress": True}),
}


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the catalogue of a folder with the modules `described.NAME`."""
    (tmp_path / "described").mkdir()
    for name, (code, _) in MODELS.items():
        (tmp_path / "described" / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in list(sys.modules):
        if name.partition(".")[0] == "described":
            monkeypatch.delitem(sys.modules, name)
    path = tmp_path / "models.toml"
    path.write_text("# My models.\n", encoding="utf-8")
    return path


def run(catalogue: Path, *arguments: str) -> tuple[int, str]:
    output = io.StringIO()
    code = describe.main(list(arguments), {"MODEL_CATALOGUE": str(catalogue)}, output)
    return code, output.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_entry_is_printed_and_written(catalogue: Path, name: str) -> None:
    module, entry = f"described.{name}", name.replace("_", "-")
    status, printed = run(catalogue, module)
    assert status == 0
    keys = {"implementation": module, "description": f"{module}."}
    assert tomllib.loads(printed) == {entry: {**keys, **MODELS[name][1]}}
    assert catalogue.read_text() == "# My models.\n"
    assert run(catalogue, module, "--write") == (0, printed)
    text = catalogue.read_text()
    assert text == f"# My models.\n\n{printed}"
    assert Catalogue.load(catalogue)[entry].implementation == module
    # Now the model has an entry.
    assert run(catalogue, entry, "--write")[0] == 2
    assert catalogue.read_text() == text
    assert run(catalogue, entry)[0] == 0


def test_unknown_model_is_named(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(catalogue, "described.turn", "--write")[0] == 0
    assert run(catalogue, "turm")[0] == 2
    assert "did you mean turn?" in capsys.readouterr().err


def test_check_refuses_a_report_that_a_worker_refuses(catalogue: Path) -> None:
    assert run(catalogue, "described.report", "--write")[0] == 0
    sample = catalogue.with_name("input.json")
    sample.write_text('{"fraction": 1.7}', encoding="utf-8")
    output = io.StringIO()
    arguments = ["report", str(sample), "--type", "application/json", "--steps"]
    assert check.main(arguments, {"MODEL_CATALOGUE": str(catalogue)}, output) == 1
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [event.get("text", event["event"]) for event in events] == [
        *("loading report", "loaded", "running report", "failed"),
    ]
    assert "ValueError" in events[-1]["detail"]
