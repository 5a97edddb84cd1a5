"""Run the Function App from its published files, with only the packages in its requirements."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from loosely.local.package import copy_function_app
from tests.e2e.system import ROOT, until
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("requirements") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    requirements = str(ROOT / "functions" / "requirements.txt")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "-r", requirements]
    subprocess.run(install, check=True)
    return python


@pytest.mark.thorough
def test_published_app_runs_with_its_requirements(tmp_path: Path, interpreter: Path) -> None:
    app = tmp_path / "app"
    copy_function_app(app, ROOT / "functions")
    # `func start` reads the settings from the same file.
    settings = json.loads((ROOT / "local.settings.example.json").read_text(encoding="utf-8"))
    settings["Values"]["REPLY_TOKEN_KEYS"] = base64.b64encode(bytes(32)).decode()
    (app / "local.settings.json").write_text(json.dumps(settings), encoding="utf-8")
    port = free_ports(1)
    command = [sys.executable, "-m", "emulator.functions", "--app", str(app), "--port", str(port)]
    command += ["--data", str(tmp_path / "data"), "--python", str(interpreter)]
    with subprocess.Popen(command, cwd=ROOT) as host:
        try:
            models = until(lambda: get(port, "/v1/models"), 60, "the app answers")
            assert {model["name"] for model in models["models"]} == {
                "classifier",
                "voice-activity",
                "noop",
            }
            assert get(port, "/v1/health/live") is not None
        finally:
            host.terminate()
        assert host.wait(30) == 0


def get(port: int, path: str) -> dict[str, object] | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10)
    except httpx.TransportError:
        return None
    return dict(answer.json()) if answer.status_code == 200 else None


def test_settings_have_the_values_for_func_start() -> None:
    host = json.loads((ROOT / "functions" / "host.json").read_text(encoding="utf-8"))
    assert host["version"] == "2.0"
    assert host["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.26.0, 5.0.0)",
    }
    assert host["extensions"]["http"]["routePrefix"] == ""
    example = json.loads((ROOT / "local.settings.example.json").read_text(encoding="utf-8"))
    assert example["IsEncrypted"] is False
    assert example["Values"]["FUNCTIONS_WORKER_RUNTIME"] == "python"
    assert example["Values"]["PYTHON_ENABLE_INIT_INDEXING"] == "1"
