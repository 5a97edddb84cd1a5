"""Test the emulator with the unmodified npm package @azure/service-bus.

`python -m servicebus_tests.sdk.upstream.javascript [ARGUMENT OF node…]`

The test cases are in `servicebus.test.mjs`. They need Node.js 20 or newer, and npm, which
installs the package into the folder that the environment variable CONFORMANCE_FOLDER names. If the
variable is not set, the package is downloaded again for each run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from servicebus_tests.sdk.servicebus_process import run_server

PACKAGE = "@azure/service-bus@7.9.5"
_CASES = Path(__file__).with_name("servicebus.test.mjs")


def main(arguments: list[str]) -> int:
    """Install the package, run the test cases, and return the exit status of node."""
    with tempfile.TemporaryDirectory(prefix="servicebus-javascript-") as temporary:
        folder = Path(os.environ.get("CONFORMANCE_FOLDER") or temporary) / "javascript"
        install(folder)
        # Node.js looks for packages beside the file.
        cases = shutil.copy(_CASES, folder)
        with run_server(Path(temporary) / "data") as server:
            environment = {
                **os.environ,
                "CONNECTION_STRING": server.connection_string,
                "ADMIN_URL": f"http://127.0.0.1:{server.admin_port}",
            }
            command = ["node", "--test", *arguments, cases]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def install(folder: Path) -> None:
    """Install the package with npm into `folder`, unless it is already installed."""
    if (folder / "node_modules").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
