"""Check that the product and the emulator use only each other's public names."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PUBLIC = ("emulator.pytest_plugin", "emulator.servicebus.amqp")
"""The modules that the emulator's README lets other programs import."""

FAULTY_SERVICES = {
    "tests/conformance/worker/servicebus_with_faults.py",
    "tests/conformance/worker/servicebus_without_ranges.py",
}
"""Variants of the local Service Bus that change its inside, so that it does not act as Azure."""


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each Python file below a folder of the repository with each module that it imports."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                yield str(path.relative_to(ROOT)), name


def test_only_public_modules_are_imported() -> None:
    wrong = [
        (path, name)
        for folder in ("functions", "worker", "loosely", "infra", "lab", "tests", "examples")
        for path, name in imports(folder)
        if name.partition(".")[0] == "emulator"
        and not name.startswith(PUBLIC)
        and path not in FAULTY_SERVICES
    ]
    assert wrong == []


def test_nothing_of_the_product_is_imported() -> None:
    ours = {"contract", "gateway", "worker", "loosely", "infra", "lab", "tests", "functions"}
    found = [each for each in imports("emulator") if each[1].partition(".")[0] in ours]
    assert found == []


def test_dependencies_are_in_the_development_extra() -> None:
    product, emulator = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (ROOT, ROOT / "emulator")
    )
    assert product["optional-dependencies"]["emulator"] == emulator["dependencies"]


def test_licence_is_that_of_the_repository() -> None:
    assert (ROOT / "emulator/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
