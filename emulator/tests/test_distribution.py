"""Test the Python distribution of the emulator: its metadata, and the examples in its README.

The examples run in a new virtual environment. It contains only the wheel of the emulator, the
packages that the README names, and their dependencies. Therefore an example fails if a dependency
is not declared. The packages are links to the files that are installed on this machine, so nothing
is downloaded.
"""

import contextlib
import importlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from command_process import running_program
from emulator.servicebus.config import parse_config
from local_ports import free_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_console_command_exists() -> None:
    scripts = PROJECT["scripts"]
    assert set(scripts) == {"local-blobs", "local-functions", "local-servicebus"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def link_distribution(name: str, extras: set[str], packages: Path, linked: set[str]) -> None:
    """Link an installed distribution and its dependencies into `packages`, unless `linked`."""
    if canonicalize_name(name) not in linked:
        linked.add(canonicalize_name(name))
        for file in importlib.metadata.distribution(name).files or ():
            target = packages / file
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.symlink_to(Path(str(file.locate())))
    link_requirements(
        importlib.metadata.distribution(name).requires or [], extras, packages, linked
    )


def link_requirements(
    requirements: list[str], extras: set[str], packages: Path, linked: set[str]
) -> None:
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        is_needed = marker is None or any(
            marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if is_needed and canonicalize_name(requirement.name) not in linked:
            link_distribution(requirement.name, requirement.extras, packages, linked)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of Python in a new environment with the packages that the README installs."""
    folder = tmp_path_factory.mktemp("installed")
    install = shlex.split(blocks("sh")[0])
    assert install[:3] == ["pip", "install", "./emulator"]
    uv = [sys.executable, "-m", "uv"]
    build = [*uv, "build", "--quiet", "--wheel", "--out-dir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    interpreter = environment / "bin" / "python"
    offline = [*uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python"]
    subprocess.run([*offline, str(interpreter), str(wheel)], check=True, timeout=100)
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    link_requirements([*PROJECT["dependencies"], *install[3:]], set(), packages, set())
    return interpreter


def environment_of(python: Path, **variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    kept.pop("PYTHONPATH", None)
    return {**kept, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", **variables}


def run_example(python: Path, folder: Path, code: str, **variables: str) -> str:
    """Run a Python example of the README unchanged, and return what the example prints."""
    result = subprocess.run(
        [str(python), "-c", code],
        cwd=folder,
        env=environment_of(python, **variables),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the README shows: configuration, app and tests."""
    made = tmp_path_factory.mktemp("project")
    (made / "app").mkdir()
    (made / "Config.json").write_text(blocks("json")[0], encoding="utf-8")
    (made / "app" / "function_app.py").write_text(blocks("python")[0], encoding="utf-8")
    assert '`{"version": "2.0"}` in `host.json`' in README
    (made / "app" / "host.json").write_text('{"version": "2.0"}', encoding="utf-8")
    (made / "test_examples.py").write_text(blocks("python")[3], encoding="utf-8")
    (made / "conftest.py").write_text(blocks("python")[4], encoding="utf-8")
    return made


def running(
    python: Path, folder: Path, command: str, url: str
) -> contextlib.AbstractContextManager[None]:
    """Run a command of the README during the `with` block."""
    program, *arguments = shlex.split(command)
    path = str(python.parent / program)
    return running_program([path, *arguments], url, folder, environment_of(python))


def test_each_config_json_in_the_readme_is_valid() -> None:
    configs = [parse_config(text) for text in blocks("json")]
    assert [
        [each.name for each in (*config.queues, *config.topics, *config.subscriptions)]
        for config in configs
    ] == [
        ["orders"],
        ["events", *(f"events/Subscriptions/{name}" for name in ("all", "large", "paid"))],
        ["orders"],
    ]
    (rule,) = configs[2].queues[0].authorization_rules
    assert (rule.name, rule.keys) == ("shop", ("SECRET-2", "SECRET-3"))


@pytest.mark.timeout(400)
def test_readme_commands_need_only_the_wheel(python: Path, folder: Path) -> None:
    servicebus, blobs, functions = blocks("sh")[1].splitlines()
    exports = dict(re.findall(r'^export (\w+)="(.*)"$', blocks("sh")[2], re.MULTILINE))
    _, send_and_receive, write_and_read, _, _, create_queue = blocks("python")
    # Other programs may use the default ports.
    amqp, admin, http, web = (free_port() for _ in range(4))
    service_bus = exports["SERVICE_BUS"].replace(":5672;", f":{amqp};")
    blob_storage = exports["BLOB_STORAGE"].replace(":10000/", f":{http}/")
    assert [service_bus, blob_storage] != list(exports.values())
    command = f"{servicebus} --port {amqp} --admin-port {admin}"
    with running(python, folder, command, f"http://127.0.0.1:{admin}/health"):
        output = run_example(python, folder, send_and_receive, SERVICE_BUS=service_bus)
        assert output == "hello\n"
        code = create_queue.replace('.replace("5672", "5300")', f'.replace("{amqp}", "{admin}")')
        assert code != create_queue
        run_example(python, folder, code, SERVICE_BUS=service_bus)
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/health", timeout=60) as response:
            assert b'"queues":2' in response.read()
    with running(python, folder, f"{blobs} --port {http}", f"http://127.0.0.1:{http}"):
        output = run_example(python, folder, write_and_read, BLOB_STORAGE=blob_storage)
        assert output == "hello\n"
    url = f"http://localhost:{web}/api/hello"
    assert "curl http://localhost:7071/api/hello" in README
    with (
        running(python, folder, f"{functions} --port {web}", url),
        urllib.request.urlopen(url, timeout=60) as response,
    ):
        assert response.read() == b"hello"


@pytest.mark.timeout(400)
def test_readme_pytest_examples_need_only_the_wheel(python: Path, folder: Path) -> None:
    result = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)],
        cwd=folder,
        env=environment_of(python),
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 passed" in result.stdout
