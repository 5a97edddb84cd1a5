"""Rules for the whole repository: settings are read in one place, and tests do not sleep."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "worker", "emulator", "loosely", "benchmarks", "infra")
BUILT = ROOT / "infra" / "build"
TEST_FOLDERS = (ROOT / "tests", ROOT / "emulator" / "tests")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not {BUILT, *TEST_FOLDERS} & set(path.parents)
)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_each_program_reads_environment_variables_in_only_one_module() -> None:
    # Benchmarks only hand their own environment on to what they start.
    programs = [path for path in MODULES if not path.is_relative_to(ROOT / "benchmarks")]
    readers = [path for path in programs if "os.environ" in path.read_text(encoding="utf-8")]
    assert set(names(readers)) == {
        "functions/function_app.py",
        "worker/__main__.py",
        "worker/check.py",
        "loosely/local/environment.py",
        # A library has no settings, but its users a key that they do not write into programs.
        "loosely/client/settings.py",
        # The app's settings are its host's environment, on top of local.settings.json.
        "emulator/functions/__main__.py",
        "infra/check.py",
        "infra/smoke.py",
    }


def test_no_module_is_named_utils_or_helpers() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "manager.py"}
    assert [path for path in MODULES if path.name in drawers] == []


def test_no_test_calls_sleep() -> None:
    tests = [
        path
        for folder in TEST_FOLDERS
        for path in folder.rglob("test_*.py")
        if path != Path(__file__)
    ]
    sleepers = [path for path in tests if "time.sleep(" in path.read_text(encoding="utf-8")]
    assert names([path for path in sleepers if "e2e" not in path.parts]) == []
