"""Run the examples of the documents as they are written."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contract.webhook import format_secrets, signed_headers
from loosely import Client, Result, Upload
from tests.e2e.system import ROOT, System, run_loosely, running
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs/how-to/models.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs/tutorials/first-model.md").read_text(encoding="utf-8")
HTTP = (ROOT / "docs/reference/http.md").read_text(encoding="utf-8")
CLIENT = (ROOT / "docs/reference/client.md").read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


PROGRAMS = blocks(CLIENT, "python") + [
    program for program in blocks(README, "python") if "from loosely import" in program
]


def test_readme_shows_dev_up_by_line_25() -> None:
    lines = README.splitlines()
    assert lines.index("./dev up") < 25


@pytest.mark.torch
def test_example_models_serve_jobs(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item_model,), (own_entry,) = blocks(TUTORIAL, "python"), blocks(TUTORIAL, "toml")
    batch_model, typed_model, differ_model, measured_model, *_ = blocks(MODELS, "python")
    parameters, inputs, results, *_ = blocks(MODELS, "toml")
    # Both are the files that `loosely new` writes.
    folder = ROOT / "examples" / "model-folder"
    assert item_model == (folder / "models" / "brightness.py").read_text(encoding="utf-8")
    assert own_entry in (folder / "models.toml").read_text(encoding="utf-8")
    (tmp_path / "models").mkdir()
    for name, code in (
        ("brightness", item_model),
        ("quarters", batch_model),
        ("colours", typed_model),
        ("differ", differ_model),
        ("measured", measured_model),
    ):
        (tmp_path / "models" / f"{name}.py").write_text(code, encoding="utf-8")
    catalogue = tmp_path / "models.toml"
    # The other models use the same three lines.
    *lines, _ = own_entry.splitlines()
    entry = "\n".join(lines)
    entries = [own_entry, entry.replace("brightness", "quarters")]
    entries += [entry.replace("brightness", "colours"), parameters]
    entries += [entry.replace("brightness", "differ"), inputs]
    entries += [entry.replace("brightness", "measured"), results]
    catalogue.write_text("\n".join(entries), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MODEL_CATALOGUE", str(catalogue))
    picture = pictures / "camera.jpg"

    checked = run_loosely("models", "check", "brightness", str(picture), folder=tmp_path)
    assert "brightness loaded in" in checked.stdout, checked.stderr
    described = run_loosely("models", "describe", "measured", folder=tmp_path)
    assert described.stdout == results, described.stderr

    with running(tmp_path / "data", catalogue) as system:
        job = system.submit("brightness", picture.read_bytes(), "image/jpeg").json()
        assert 0.2 < job["result"]["brightness"] < 0.8, job
        shown = system.http.get("/v1/models/brightness").json()
        assert shown["name"] == "brightness"
        colours = system.submit("quarters", picture.read_bytes(), "image/jpeg").json()["result"]
        assert set(colours) == {"top left", "top right", "bottom left", "bottom right"}
        assert all(0 <= colour <= 255 for quarter in colours.values() for colour in quarter)
        assert len(submit_colours(system, picture, {"top": 2}).json()["result"]) == 2
        white = tmp_path / "white.png"
        Image.new("L", (64, 64), 255).save(white)
        files = {"file": ("a.jpg", picture.read_bytes()), "other": ("b.png", white.read_bytes())}
        different = system.http.post("/v1/models/differ/jobs", files=files).json()
        assert 0.2 < different["result"]["difference"] < 0.8, different
        with Client(system.url) as client:
            title = client.upload(b"a", "differ", media_type="text/plain", input_name="title")
            given: dict[str, Path | Upload] = {"other": picture, "mask": white, "title": title}
            assert client.run(picture, "differ", inputs=given).result == {
                "title": "a",
                "difference": 0.0,
            }
        check_measured(system, picture, white, tmp_path / "saved")
        refused = submit_colours(system, picture, {"top": 0})
        assert (refused.status_code, refused.json()["pointer"]) == (422, "/parameters/top")


def check_measured(system: System, picture: Path, white: Path, folder: Path) -> None:
    with Client(system.url) as client:
        job = client.run(picture, "measured")
        assert 0.2 < job.result["brightness"] < 0.8
        assert list(job.results) == ["thumbnail", "bright", "histogram"]
        with Image.open(picture) as opened:
            size = opened.size
        assert sum(job.results["histogram"]) == size[0] * size[1]
        for name, expected in (("thumbnail", 64), ("bright", max(size))):
            found = client.result(job.id, name)
            assert isinstance(found, Result)
            with Image.open(io.BytesIO(found.body)) as drawn:
                assert (found.media_type, max(drawn.size)) == ("image/png", expected)
        assert list(client.run(white, "measured").results) == ["thumbnail", "histogram"]
    submit = ("submit", str(picture), "--model", "measured", "--save", str(folder))
    assert run_loosely(*submit, "--url", system.url).returncode == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"result.json", "thumbnail.png", "bright.png", "histogram.json"}


@pytest.mark.torch
def test_commands_of_first_model_succeed(tmp_path: Path) -> None:
    install, make, commands = blocks(TUTORIAL, "sh")
    assert install == "pip install '.[local]'\n"
    *made, served = make.splitlines()
    assert served == "loosely up --watch"
    port, python = free_ports(5), shlex.quote(sys.executable)
    # A test of the wheel is in test_e2e_model_folder.py. Here `loosely` is this repository's.
    script = "\n".join(
        [
            f'loosely() {{ {python} -m loosely "$@"; }}',
            *made,
            f"{python} -m {served} --port {port} >up.log 2>&1 &",
            "up=$!; trap 'kill -INT $up; wait $up || true' EXIT",
            "until grep -q 'Ready in' up.log; do kill -0 $up; sleep 0.2; done",
            commands.replace("http://127.0.0.1:7071", f"http://127.0.0.1:{port}").replace(
                "loosely test", "loosely test -- -p no:schemathesis"
            ),
        ]
    )
    done = run(["sh", "-e", "-c", script], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ('"brightness":', "brightness loaded in", "1 passed", "build/functions: "):
        assert text in done.stdout, done.stdout


def submit_colours(system: System, picture: Path, parameters: dict[str, int]) -> httpx.Response:
    return system.http.post(
        "/v1/models/colours/jobs",
        content=picture.read_bytes(),
        headers={"content-type": "image/jpeg"},
        params={"parameters": json.dumps(parameters)},
    )


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=220,
    )


def test_commands_of_http_succeed(system: System, tmp_path: Path) -> None:
    commands = "\n".join(blocks(HTTP, "sh")).replace("http://127.0.0.1:7071", system.url)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = run(["sh", "-e", "-c", commands], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("Egyptian cat", '"sha256"', '"label":"example"', '"nearest":["classifier"]'):
        assert text in done.stdout


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_of_client_succeed(system: System, number: int) -> None:
    program = PROGRAMS[number].replace("http://127.0.0.1:7071", system.url)
    done = run([sys.executable, "-W", "error", "-c", program], ROOT)
    assert done.returncode == 0, done.stderr


def test_commands_of_client_succeed(system: System) -> None:
    [commands] = blocks(CLIENT, "sh")
    script = f'loosely() {{ "{sys.executable}" -m loosely "$@"; }}\n{commands}'
    done = run(["sh", "-e", "-c", script], ROOT, LOOSELY_URL=system.url)
    assert done.returncode == 0, done.stderr
    assert "Egyptian cat" in done.stdout
    assert "image/jpeg" in done.stdout


def test_verify_refuses_wrong_and_old_webhooks() -> None:
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
