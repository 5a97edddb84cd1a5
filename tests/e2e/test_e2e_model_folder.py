"""Test the commands for a model folder with an installed wheel of Loosely.

The tests create a model folder with `loosely new`, and then serve, change, test and package the
model in this folder. Only the wheel is installed in a new environment. A .pth file adds all other
packages from the environment that runs pytest, because an installation of torch takes minutes.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from loosely.local.data_directory import RunningSystem
from loosely.local.parts import SystemSettings, loosely_parts
from loosely.local.ports import Ports
from tests.e2e.system import READY_SECONDS, ROOT, until
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(target)]
    subprocess.run([*command, str(ROOT)], check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new virtual environment. Return the environment's folder `bin`."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--offline"]
    subprocess.run([*install, "--python", str(python), str(wheel)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python.parent


def environment(programs: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def run(programs: Path, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=folder,
        env=environment(programs),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("folder")
    made = run(programs, parent, "loosely new demo")
    assert made.returncode == 0, made.stderr
    return parent / "demo"


def test_wheel_has_components_without_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    own = {name.removeprefix("loosely/system/") for name in names if "/system/" in name}
    assert {
        "functions/host.json",
        "functions/contract/models.toml",
        "functions/gateway/http/pages/play.html",
        "worker/__main__.py",
        "worker/Dockerfile",
        "emulator/servicebus/__main__.py",
        "examples/speech.wav",
        "examples/model-folder/.gitignore",
        "infra/main.bicep",
        "infra/scripts/deploy-worker.sh",
        "azure.yaml",
    } <= own
    strange = re.compile(r"(^|/)(tests/|__pycache__|local\.settings)|\.pyc$|^functions/\.venv")
    found = {name for name in own if strange.search(name)}
    assert found == {
        "examples/chat-folder/tests/test_chat.py",
        "examples/model-folder/tests/test_brightness.py",
    }


def test_new_refuses_a_folder_with_files(folder: Path, programs: Path) -> None:
    before = sorted(folder.rglob("*"))
    refused = run(programs, folder.parent, "loosely new demo")
    assert refused.returncode == 2
    assert "not an empty folder" in refused.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.thorough
def test_watch_reloads_changed_models(folder: Path, programs: Path) -> None:
    code, catalogue = folder / "models" / "brightness.py", folder / "models.toml"
    with serving(programs, folder) as output, answered_always(output):
        curl = "".join(re.findall(r"^ +(curl .*)$", output.read_text("utf-8"), re.MULTILINE))
        answered = run(programs, folder, curl)
        assert 0 < json.loads(answered.stdout)["result"]["brightness"] < 1, answered

        below = folder / "tests"
        sent = run(
            programs,
            below,
            "loosely submit ../examples/chelsea.jpg -m brightness --param unit=percent",
        )
        assert sent.returncode == 0, sent.stderr
        assert "brightness" in sent.stdout
        assert "brightness" in run(programs, below, "loosely models").stdout
        checked = run(programs, below, "loosely models check brightness ../examples/chelsea.jpg")
        assert "brightness loaded in" in checked.stdout, checked.stderr

        good = code.read_text("utf-8")
        code.write_text(good.replace('{"brightness":', '{"light":'), encoding="utf-8")
        until(lambda: answer(curl, programs, folder, "light"), 60, "the changed model answers")

        raising = good.replace("fraction = Stat", "raise ValueError('seen'); fraction = Stat")
        restarts = output.read_text("utf-8").count("ready again")
        code.write_text(raising, encoding="utf-8")
        until(lambda: output.read_text("utf-8").count("ready again") > restarts, 60, "restarted")
        failed = run(programs, below, "loosely submit ../examples/chelsea.jpg -m brightness")
        assert "loosely logs --job" in failed.stderr
        until(lambda: "ValueError: seen" in output.read_text("utf-8"), 60, "`up` shows the error")
        job_id = failed.stderr.split()[-1]
        for command in (f"logs --job {job_id}", f"status {job_id} --timeline"):
            assert "ValueError: seen" in run(programs, below, f"loosely {command}").stdout, command

        code.write_text(good, encoding="utf-8")
        until(lambda: answer(curl, programs, folder, "brightness"), 60, "the model answers again")
        code.write_text(good + "\nthis is no Python\n", encoding="utf-8")
        error = f"{code}, line {len(good.splitlines()) + 2}: invalid syntax"
        until(lambda: error in output.read_text("utf-8"), 60, "the code is refused")
        assert answer(curl, programs, folder, "brightness"), "the worker runs the good code"
        code.write_text(good, encoding="utf-8")

        entry = catalogue.read_text("utf-8")
        catalogue.write_text(entry + "[broken]\n", encoding="utf-8")
        text = "broken.implementation: the key is missing"
        until(lambda: text in output.read_text("utf-8"), 60, "the catalogue is refused")
        catalogue.write_text("[[[", encoding="utf-8")
        until(lambda: "line 1" in output.read_text("utf-8"), 60, "a second bad save is refused")
        catalogue.write_text(entry + entry.replace("[brightness]", "[second]"), encoding="utf-8")
        second = curl.replace("models/brightness", "models/second")
        until(lambda: answer(second, programs, folder, "brightness"), 60, "the new model answers")
        catalogue.write_text(entry, encoding="utf-8")


@contextmanager
def answered_always(output: Path) -> Iterator[None]:
    (url,) = re.findall(r"(http://\S+)/play", output.read_text("utf-8"))
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.05):
            statuses.append(httpx.get(f"{url}/v1/models", timeout=60).status_code)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            is_over.set()
        asking.result()
    assert set(statuses) == {200}


def answer(curl: str, programs: Path, folder: Path, key: str) -> bool:
    try:
        job = json.loads(run(programs, folder, f"{curl} -s -m 10").stdout)
    except ValueError:
        return False
    return key in (job.get("result") or {})


@contextmanager
def serving(programs: Path, folder: Path) -> Iterator[Path]:
    output = folder.parent / "up.out"
    command = [str(programs / "loosely"), "up", "--watch", "--port", str(free_ports(5))]
    command += ["--data", str(folder.parent / "data")]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(programs), stdout=file, stderr=file
        )
    try:
        until(
            lambda: "Ready in" in output.read_text("utf-8") or process.poll() is not None,
            READY_SECONDS,
            "the folder is served",
        )
        assert process.poll() is None, output.read_text("utf-8")
        yield output
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


@pytest.mark.thorough
def test_tests_of_a_new_folder_pass(folder: Path, programs: Path) -> None:
    done = run(programs, folder, "loosely test -- -p no:schemathesis")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    # The data of the tests' system is elsewhere.
    assert RunningSystem.read(folder / ".loosely") is None


def test_packaged_components_serve_jobs(folder: Path, programs: Path, tmp_path: Path) -> None:
    (folder / "requirements.txt").write_text("pillow\n", encoding="utf-8")
    made = run(programs, folder, "loosely package && loosely package")
    assert made.returncode == 0, made.stderr
    shutil.copytree(folder / "build", tmp_path / "alone")
    app, context = tmp_path / "alone" / "functions", tmp_path / "alone" / "worker"
    assert {path.name for path in context.iterdir()} == {
        *("Dockerfile", "functions", "models", "requirements.txt", "worker")
    }
    dockerfile = (context / "Dockerfile").read_text("utf-8")
    for source in re.findall(r"^COPY ((?!--from).*) \S+$", dockerfile, re.MULTILINE):
        assert all((context / path).exists() for path in source.split()), source

    settings = SystemSettings(ROOT, tmp_path / "data", Ports.from_base(free_ports(5)), KEY, "info")
    with running_alone(settings, app, context, folder / "models.toml", tmp_path):
        url = f"{settings.gateway_url}/v1/models/brightness/jobs"
        picture = (folder / "examples" / "chelsea.jpg").read_bytes()
        job = until(lambda: submit(url, picture), 90, "the packaged system answers")
        assert 0 < job["result"]["brightness"] < 1, job


@contextmanager
def running_alone(
    settings: SystemSettings, app: Path, context: Path, catalogue: Path, folder: Path
) -> Iterator[None]:
    source = {"PYTHONPATH": f"{ROOT / 'functions'}{os.pathsep}{ROOT}"}
    # The image has the contract in the same folder as the worker.
    image = {"PYTHONPATH": f"{context / 'functions'}{os.pathsep}{context}"}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for part in loosely_parts(settings):
            if part.preparation is not None:
                command = [*part.preparation.command, str(catalogue)]
                prepared = subprocess.run(
                    command, env={**kept, **source}, capture_output=True, check=True
                )
                for path, content in part.preparation.read_contents(prepared.stdout).items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            packaged = [word.replace(str(ROOT / "functions"), str(app)) for word in part.command]
            is_worker = part.name == "worker"
            processes.append(
                subprocess.Popen(
                    packaged,
                    cwd=folder,
                    env={**kept, **(image if is_worker else source), **part.environment},
                )
            )
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def submit(url: str, picture: bytes) -> Any:
    try:
        response = httpx.post(
            url, content=picture, headers={"content-type": "image/jpeg"}, timeout=60
        )
    except httpx.TransportError:
        return None
    return response.json() if response.status_code == 200 else None


def test_deploy_creates_a_project_and_runs_azd_up(
    folder: Path, programs: Path, tmp_path: Path
) -> None:
    missing = run(programs, folder, "loosely deploy")
    assert missing.returncode == 2
    assert "azd is not installed" in missing.stderr
    project = folder / "azure"
    catalogue = json.loads((project / "infra" / "catalogue.json").read_text("utf-8"))
    assert [model["name"] for model in catalogue["models"]] == ["brightness"]
    assert "brightness" in (project / "infra/k8s/base/workers/models.yaml").read_text("utf-8")

    azd = tmp_path / "azd"
    azd.write_text('#!/bin/sh\necho "$@"\nexit 7\n', encoding="utf-8")
    azd.chmod(0o755)
    called = run(programs, folder, f'PATH="{tmp_path}:$PATH" loosely deploy -- --no-prompt')
    assert called.returncode == 7, called.stderr
    assert called.stdout == f"up --cwd {project} --no-prompt\n"


def test_package_keeps_a_folder_with_other_files(
    folder: Path, programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "thesis.txt").touch()
    refused = run(programs, folder, f"loosely package {tmp_path}")
    assert refused.returncode == 2
    assert "choose an empty folder" in refused.stderr
    assert (tmp_path / "functions" / "thesis.txt").exists()
