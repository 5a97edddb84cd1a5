"""Run the examples of README.md and docs/models.md as they are written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def test_the_command_dev_up_is_within_the_first_25_lines_of_the_readme() -> None:
    lines = README.splitlines()
    assert lines.index("./dev up") < 25


@pytest.mark.torch
def test_the_example_models_in_the_guide_for_model_authors_serve_jobs(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_model, batch_model, *_ = blocks(MODELS, "python")
    entry, *_ = blocks(MODELS, "toml")
    (tmp_path / "brightness.py").write_text(item_model, encoding="utf-8")
    (tmp_path / "quarters.py").write_text(batch_model, encoding="utf-8")
    catalogue = tmp_path / "models.toml"
    assert '"worker.models.brightness"' in entry
    entry = entry.replace('"worker.models.brightness"', '"brightness"')
    # The item model and the batch model use the same entry.
    catalogue.write_text(entry + "\n" + entry.replace("brightness", "quarters"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MODEL_CATALOGUE", str(catalogue))
    picture = pictures / "camera.jpg"

    checked = subprocess.run(
        [sys.executable, "-m", "loosely", "models", "check", "brightness", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "brightness loaded in" in checked.stdout

    with running(tmp_path / "data", catalogue) as system:
        job = system.submit("brightness", picture.read_bytes(), "image/jpeg").json()
        assert 0.2 < job["result"]["brightness"] < 0.8, job
        shown = system.http.get("/v1/models/brightness").json()
        assert shown["name"] == "brightness"
        colours = system.submit("quarters", picture.read_bytes(), "image/jpeg").json()["result"]
        assert set(colours) == {"top left", "top right", "bottom left", "bottom right"}
        assert all(0 <= colour <= 255 for quarter in colours.values() for colour in quarter)
