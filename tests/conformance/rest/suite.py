"""Test the REST API with third-party clients and with a fuzzer.

HTTP clients of other languages send bodies in chunks; outside CI, those that are not installed are
skipped. Each client of the Open Inference Protocol is installed in a temporary environment, because
the clients are large and their dependencies differ from those of this repository.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from contract.catalogue import DEFAULT_PATH
from tests.conformance.rest.chunked_clients import PACKAGES, is_installed, send_chunked
from tests.conformance.rest.named_input_model import ENTRY
from tests.conformance.rest.schemathesis_run import fuzz
from tests.e2e.system import ROOT, System, add_form_option, running

CLIENTS = {"tritonclient": "tritonclient[http]", "kserve": "kserve"}
GENERATOR = "openapi-python-client"
LEAST_REQUESTS = 2000
EXAMPLES = 60
CATS = {"Egyptian cat", "tabby", "tiger cat"}


def environment(folder: Path, requirement: str) -> Path:
    """Create a virtual environment with `requirement`, and return the interpreter's path."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
    return python


def classify(url: str, name: str, folder: Path) -> str | None:
    """Install the third-party client `name`, and run the script that tests the client.

    The script classifies a picture of a cat, and compares this picture with itself. Return None if
    the script succeeds and the first label of each result names a cat, otherwise an error text.
    """
    python = environment(folder / name, CLIENTS[name])
    script = Path(__file__).with_name(f"{name}_client.py")
    picture = ROOT / "examples" / "chelsea.jpg"
    run = subprocess.run(
        [python, script, url, picture], check=False, capture_output=True, text=True, timeout=120
    )
    if run.returncode:
        return run.stderr
    rows: list[list[str]] = json.loads(run.stdout)
    return (
        None
        if rows and all(row[0] in CATS for row in rows)
        else f"the labels do not name a cat: {run.stdout}"
    )


def generate(url: str, folder: Path) -> str | None:
    """Generate a client from /openapi.json and send requests with it.

    Return an error text, or None if the client can send its requests.
    """
    python = environment(folder / "generator", GENERATOR)
    made = folder / "made"
    # The generator warns about media types that it does not support, such as pictures, and omits
    # them.
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
    """Run Schemathesis with all checks.

    Return None if all checks passed and enough requests were sent, otherwise an error text.
    """
    outcome = fuzz(system.url, EXAMPLES, *options)
    sys.stdout.write(outcome.report)
    if not outcome.has_passed:
        return "Schemathesis reported failures, see the output above"
    if outcome.request_count < LEAST_REQUESTS:
        return f"expected at least {LEAST_REQUESTS} requests, found {outcome.request_count}"
    return None


def main(arguments: list[str]) -> int:
    """Start a local system, and run all checks on it. Return 1 if a check has failed, otherwise 0.

    `arguments` may contain `--isolated`. The others are passed to Schemathesis.
    """
    parser = argparse.ArgumentParser(prog="./dev conformance rest", add_help=False)
    add_form_option(parser)
    given, options = parser.parse_known_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loosely-rest-")))
        catalogue = folder / "models.toml"
        catalogue.write_text(DEFAULT_PATH.read_text("utf-8") + ENTRY, encoding="utf-8")
        system = stack.enter_context(running(folder / "data", catalogue, options=given.form))
        failures = {
            **{
                f"chunks of {client}": send_chunked(client, system.url, folder)
                for client in PACKAGES
                if is_installed(client) or os.environ.get("CI")
            },
            **{client: classify(system.url, client, folder) for client in CLIENTS},
            "generated client": generate(system.url, folder),
            "schemathesis": fuzz_at_length(system, options),
        }
    for client in (each for each in PACKAGES if f"chunks of {each}" not in failures):
        sys.stdout.write(f"chunks of {client}: skipped, install {PACKAGES[client]} to run it\n")
    for check, failure in failures.items():
        sys.stdout.write(f"{check}: {failure or 'passed'}\n")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
