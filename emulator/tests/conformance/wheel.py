"""Install the emulator alone, and run the emulator's tests on it.

`python -m conformance.wheel [PYTEST ARGUMENT…]`

The environment and a copy of the tests are in a temporary folder outside the repository, so that
the tests import the installed package and not the source. pip downloads the dependencies.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EMULATOR = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Build the emulator's wheel, install it and run its tests. Return pytest's exit status."""
    with tempfile.TemporaryDirectory(prefix="emulator-wheel-") as name:
        folder = Path(name)
        wheel = build_wheel(folder / "dist")
        python = install(wheel, folder / "environment")
        tests = copy_tests(folder / "checkout")
        command = [str(python), "-P", "-m", "pytest", "-q", *arguments]
        return subprocess.run(command, cwd=tests, check=False).returncode


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder` and return its path."""
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, EMULATOR)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel and its test dependencies in a new environment.

    Return the path of the environment's Python interpreter.
    """
    _run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", f"{wheel}[test]")
    return python


def copy_tests(folder: Path) -> Path:
    """Copy the tests and what they read to `folder`. Return `folder`."""
    folder.mkdir()
    # The tests of the distribution need its source.
    ignored = shutil.ignore_patterns("__pycache__", "test_distribution.py")
    shutil.copytree(EMULATOR / "tests", folder / "tests", ignore=ignored)
    for name in ("pyproject.toml", "FIDELITY.md"):
        shutil.copy(EMULATOR / name, folder)
    return folder


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
