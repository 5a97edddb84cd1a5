"""Run Schemathesis on the /openapi.json of a running system."""

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
    """The result of one run of Schemathesis. `report` is everything that Schemathesis printed."""

    has_passed: bool
    request_count: int
    report: str


def fuzz(url: str, examples_count: int, *options: str) -> Outcome:
    """Run Schemathesis with valid and invalid requests. Return the outcome.

    All phases run: the document's examples, the limits of each schema, random data, and sequences
    of requests.

    Args:
        url: The gateway's URL.
        examples_count: The maximum number of random examples for each operation.
        options: Further options of Schemathesis.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)]
    command += ["run", f"{url}/openapi.json", "--max-examples", str(examples_count)]
    # Schemathesis writes files into its working directory, so use a temporary folder.
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
