"""Test the dependencies, commands and licence of the emulator's own distribution."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def project(folder: Path) -> dict[str, Any]:
    document = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["project"]
    return found


def test_the_repository_installs_every_dependency_of_the_emulator() -> None:
    extra = project(ROOT)["optional-dependencies"]["emulator"]
    assert extra == project(ROOT / "emulator")["dependencies"]


def test_every_console_command_of_the_emulator_refers_to_an_existing_function() -> None:
    scripts = project(ROOT / "emulator")["scripts"]
    assert set(scripts) == {"local-blobs", "local-functions", "local-servicebus"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_emulator_distribution_and_the_repository_have_the_same_licence() -> None:
    assert (ROOT / "emulator/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
