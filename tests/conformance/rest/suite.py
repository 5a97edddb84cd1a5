"""The REST surface against clients and a fuzzer that know only its standards.

Each client comes into a temporary environment of its own: they are heavy, and what they need is
not ours.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.conformance.rest.schemathesis_run import fuzz
from tests.e2e.system import ROOT, System, running

CLIENTS = {"tritonclient": "tritonclient[http]", "kserve": "kserve"}
GENERATOR = "openapi-python-client"
LEAST_REQUESTS = 2000
EXAMPLES = 60
CATS = {"Egyptian cat", "tabby", "tiger cat"}


def environment(folder: Path, requirement: str) -> Path:
    """The interpreter of a new environment that has this requirement."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
    return python


def classify(url: str, name: str, folder: Path) -> str | None:
    """Classify a picture of a cat by an unmodified client; what went wrong, or None."""
    python = environment(folder / name, CLIENTS[name])
    script = Path(__file__).with_name(f"{name}_client.py")
    picture = ROOT / "examples" / "chelsea.jpg"
    run = subprocess.run(
        [python, script, url, picture], check=False, capture_output=True, text=True, timeout=120
    )
    if run.returncode:
        return run.stderr
    rows: list[list[str]] = json.loads(run.stdout)
    return None if rows and all(row[0] in CATS for row in rows) else f"no cat: {run.stdout}"


def generate(url: str, folder: Path) -> str | None:
    """Generate a client from /openapi.json and ask with it; what went wrong, or None."""
    python = environment(folder / "generator", GENERATOR)
    made = folder / "made"
    # It tells of the media types that it cannot send, such as pictures, and leaves them out.
    command = [str(python.parent / GENERATOR), "generate", "--url", f"{url}/openapi.json"]
    command += ["--meta", "none", "--output-path", str(made / "generated")]
    run = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    if run.returncode:
        return run.stdout + run.stderr
    script = Path(__file__).with_name("generated_client.py")
    run = subprocess.run(
        [python, script, url, made], check=False, capture_output=True, text=True, timeout=120
    )
    return run.stderr if run.returncode else None


def fuzz_at_length(system: System, options: list[str]) -> str | None:
    """Schemathesis with all checks; what went wrong, or None."""
    outcome = fuzz(system.url, EXAMPLES, *options)
    sys.stdout.write(outcome.report)
    if not outcome.has_passed:
        return "see above"
    if outcome.request_count < LEAST_REQUESTS:
        return f"only {outcome.request_count} requests were made"
    return None


def main(options: list[str]) -> int:
    """Run all of it on a system of its own; the options go to Schemathesis."""
    with (
        tempfile.TemporaryDirectory(prefix="loosely-rest-") as name,
        running(Path(name) / "data") as system,
    ):
        folder = Path(name)
        failures = {
            **{client: classify(system.url, client, folder) for client in CLIENTS},
            "generated client": generate(system.url, folder),
            "schemathesis": fuzz_at_length(system, options),
        }
    for check, failure in failures.items():
        sys.stdout.write(f"{check}: {failure or 'passed'}\n")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
