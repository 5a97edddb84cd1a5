"""Schemathesis over a running system's own /openapi.json."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to; `report` is all that it printed."""

    has_passed: bool
    request_count: int
    report: str


def fuzz(url: str, examples_count: int, *options: str) -> Outcome:
    """Send what the document allows and what it does not: so many examples an operation and more.

    All phases: the document's examples, the edges of each schema, random data, and sequences.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)]
    command += ["run", f"{url}/openapi.json", "--max-examples", str(examples_count)]
    # It leaves notes of what it found in the folder where it runs.
    with tempfile.TemporaryDirectory(prefix="loosely-schemathesis-") as folder:
        run = subprocess.run(
            [*command, "--workers", "1", "--no-color", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
            timeout=1200,
        )
    counted = re.search(r"(\d+) generated", run.stdout)
    return Outcome(run.returncode == 0, int(counted[1]) if counted else 0, run.stdout + run.stderr)
