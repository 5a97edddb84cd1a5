"""What a reader may rely on: small modules, short functions, settings read in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "worker", "emulator", "loosely", "benchmarks", "infra")
BUILT = ROOT / "infra" / "build"
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if BUILT not in path.parents
)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = [f.name for f in functions(tree) if f.end_lineno and f.end_lineno - f.lineno >= 60]
    assert long == []


def test_the_environment_is_read_in_one_place_of_each_program() -> None:
    # Benchmarks only hand their own environment on to what they start.
    programs = [path for path in MODULES if not path.is_relative_to(ROOT / "benchmarks")]
    readers = [path for path in programs if "os.environ" in path.read_text(encoding="utf-8")]
    assert set(names(readers)) == {
        "functions/function_app.py",
        "worker/__main__.py",
        "worker/check.py",
        "loosely/up/environment.py",
        # A library has no settings, but its users a key that they do not write into programs.
        "loosely/credentials.py",
        # The app's settings are its host's environment, on top of local.settings.json.
        "emulator/functions/__main__.py",
        "infra/check.py",
        # A program of its own, run with the operator's API key.
        "infra/smoke.py",
    }


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "manager.py"}
    assert [path for path in MODULES if path.name in drawers] == []


def test_no_test_sleeps() -> None:
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    sleepers = [path for path in tests if "time.sleep(" in path.read_text(encoding="utf-8")]
    assert names([path for path in sleepers if "e2e" not in path.parts]) == []
