"""Run the examples of README.md, docs/models.md and docs/http.md as they are written."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.webhook import format_secrets, signed_headers
from tests.e2e.system import ROOT, System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
HTTP = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def test_the_command_dev_up_is_within_the_first_25_lines_of_the_readme() -> None:
    lines = README.splitlines()
    assert lines.index("./dev up") < 25


@pytest.mark.torch
def test_the_example_models_in_the_guide_for_model_authors_serve_jobs(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_model, batch_model, typed_model, *_ = blocks(MODELS, "python")
    entry, parameters, *_ = blocks(MODELS, "toml")
    (tmp_path / "brightness.py").write_text(item_model, encoding="utf-8")
    (tmp_path / "quarters.py").write_text(batch_model, encoding="utf-8")
    (tmp_path / "colours.py").write_text(typed_model, encoding="utf-8")
    catalogue = tmp_path / "models.toml"
    assert '"worker.models.brightness"' in entry
    entry = entry.replace('"worker.models.brightness"', '"brightness"')
    # The three models use the same entry.
    entries = [
        entry,
        entry.replace("brightness", "quarters"),
        entry.replace("brightness", "colours"),
    ]
    catalogue.write_text("\n".join([*entries, parameters]))
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
        assert len(submit_colours(system, picture, {"top": 2}).json()["result"]) == 2
        refused = submit_colours(system, picture, {"top": 0})
        assert (refused.status_code, refused.json()["pointer"]) == (422, "/parameters/top")


def submit_colours(system: System, picture: Path, parameters: dict[str, int]) -> httpx.Response:
    return system.http.post(
        "/v1/models/colours/jobs",
        content=picture.read_bytes(),
        headers={"content-type": "image/jpeg"},
        params={"parameters": json.dumps(parameters)},
    )


def test_the_commands_in_the_http_guide_succeed(system: System, tmp_path: Path) -> None:
    commands = "\n".join(blocks(HTTP, "sh")).replace("http://127.0.0.1:7071", system.url)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("Egyptian cat", '"sha256"', '"label":"example"', '"nearest":["classifier"]'):
        assert text in done.stdout


def test_the_function_in_the_http_guide_verifies_webhooks() -> None:
    (program,) = blocks(HTTP, "python")
    names: dict[str, Any] = {}
    exec(program, names)
    secret = bytes(range(32))
    now = datetime.now(UTC)
    headers = signed_headers((bytes(32), secret), "job_1", now, b"{}")
    (text,) = format_secrets([secret]).split(",")
    assert names["verify"](headers, b"{}", text)
    assert not names["verify"](headers, b"[]", text)
    assert not names["verify"](headers, b"{}", format_secrets([bytes([7]) * 32]))
    late = signed_headers((secret,), "job_1", now - timedelta(minutes=6), b"{}")
    assert not names["verify"](late, b"{}", text)
