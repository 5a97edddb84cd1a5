"""What the documents tell a newcomer to type works as it stands there."""

import re
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def test_the_first_command_stands_near_the_top() -> None:
    lines = README.splitlines()
    assert lines.index("./dev up") < 25


def test_the_model_of_the_recipe_serves(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, *_ = blocks(MODELS, "python")
    entry, *_ = blocks(MODELS, "toml")
    (tmp_path / "brightness.py").write_text(recipe, encoding="utf-8")
    catalogue = tmp_path / "models.toml"
    assert '"worker.models.brightness"' in entry
    catalogue.write_text(entry.replace('"worker.models.brightness"', '"brightness"'))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running(tmp_path / "data", catalogue) as system:
        job = system.submit(
            "brightness", (pictures / "camera.jpg").read_bytes(), "image/jpeg"
        ).json()
        assert 0.2 < job["result"]["brightness"] < 0.8, job
        shown = system.http.get("/v1/models/brightness").json()
        assert shown["name"] == "brightness"
