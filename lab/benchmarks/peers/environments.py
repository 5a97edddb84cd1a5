"""Create the Python environments of the peers in the folder `.venv-peers`.

A peer is another way to serve a model, with which Loosely is compared.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".venv-peers"
REQUIREMENTS = {
    "peers": ROOT / "lab" / "benchmarks" / "peers" / "requirements.txt",
    "celery": ROOT / "lab" / "benchmarks" / "peers" / "requirements-celery.txt",
    # arq needs an older Redis client than Celery.
    "arq": ROOT / "lab" / "benchmarks" / "peers" / "requirements-arq.txt",
    # No peer: the profiler of `./dev bench cpu --layers`.
    "py-spy": ROOT / "lab" / "benchmarks" / "requirements-py-spy.txt",
}


def prepare(name: str) -> Path:
    """Create the Python environment `name` if it is missing or outdated. Return its folder `bin`.

    Raises:
        subprocess.CalledProcessError: if pip fails. pip prints the reason to stderr.
    """
    folder = FOLDER / name
    stamp = folder / "stamp"
    wanted = f"{sys.version}\n{REQUIREMENTS[name].read_text('utf-8')}"
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        sys.stderr.write(f"creating the Python environment {folder}; this takes some minutes\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        command = ["-m", "pip", "install", "--quiet", "--progress-bar", "off", "-r"]
        subprocess.run([folder / "bin" / "python", *command, REQUIREMENTS[name]], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def versions(name: str) -> dict[str, str]:
    """Return the installed version of each distribution in an environment's requirements file.

    The dict's keys are the names of the distributions. `name` is the name of the environment.
    """
    names = list(required_names(REQUIREMENTS[name].read_text("utf-8").splitlines()))
    program = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    output = subprocess.run(
        [prepare(name) / "python", "-c", program, *names],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return dict(zip(names, output.split(), strict=True))


def required_names(lines: Iterable[str]) -> Iterable[str]:
    """Yield the names of the distributions in the lines of a requirements file."""
    for line in lines:
        if line and not line.startswith("#"):
            yield line.split("==")[0].split("[")[0]


def variables() -> dict[str, str]:
    """Return the environment variables that all programs of the peers get."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "BENTOML_DO_NOT_TRACK": "True",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
