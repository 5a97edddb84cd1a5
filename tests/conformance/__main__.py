"""Run the product's long test suites: `./dev conformance NAME`.

chat    the model folder of `loosely new --example chat`, with packages from PyPI
openai  the OpenAI API with the packages openai of Python and JavaScript, litellm and LangChain
rest    the REST API with unmodified third-party clients, and with the fuzzer Schemathesis
worker  a worker that is killed 20 times with kill -9 at random times under load

The suites openai, rest and worker take `--isolated`: the app has a process beside its host then.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITES = {
    "chat": "tests.conformance.chat.suite",
    "openai": "tests.conformance.openai.suite",
    "rest": "tests.conformance.rest.suite",
    "worker": "lab.storm.worker_kills",
}
"""The module of each suite, by the suite's name."""


def main(arguments: list[str]) -> int:
    """Run the suite that the first argument names, or all suites. Return the exit status."""
    if not arguments:
        return max(main([name]) for name in SUITES)
    name, *rest = arguments
    if name not in SUITES:
        sys.stderr.write(f"there is no suite {name!r}: choose one of {', '.join(SUITES)}\n")
        return 2
    command = [sys.executable, "-m", SUITES[name], *rest]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
