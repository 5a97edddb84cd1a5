"""Test the emulators with the unmodified npm packages @azure/service-bus and @azure/storage-blob.

`python -m javascript_sdks.conformance [ARGUMENT OF node…]`

The test cases are in the files `*.test.mjs`. They need Node.js 20 or newer, and npm, which installs
the packages into the folder that the environment variable CONFORMANCE_FOLDER names. If the variable
is not set, the packages are downloaded again for each run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from blobs_tests.sdk.blob_servers import ACCOUNT, KEY, run_emulator
from servicebus_tests.sdk.servicebus_process import run_server

PACKAGES = "@azure/service-bus@7.9.5", "@azure/storage-blob@12.32.0"
_CASES = sorted(Path(__file__).parent.glob("*.test.mjs"))


def main(arguments: list[str]) -> int:
    """Install the packages, run the test cases, and return the exit status of node."""
    with tempfile.TemporaryDirectory(prefix="javascript-sdks-") as temporary:
        folder = Path(os.environ.get("CONFORMANCE_FOLDER") or temporary) / "javascript"
        install(folder)
        # Node.js looks for packages beside the files.
        cases = [shutil.copy(path, folder) for path in _CASES]
        with (
            run_server(Path(temporary) / "servicebus") as bus,
            run_emulator(Path(temporary) / "blobs") as blobs,
        ):
            environment = {
                **os.environ,
                "CONNECTION_STRING": bus.connection_string,
                "ADMIN_URL": f"http://127.0.0.1:{bus.admin_port}",
                "BLOB_CONNECTION_STRING": blobs.connection_string,
                "BLOB_ACCOUNT": ACCOUNT,
                "BLOB_KEY": KEY,
            }
            command = ["node", "--test", *arguments, *cases]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def install(folder: Path) -> None:
    """Install PACKAGES with npm into `folder`, unless the folder already contains them."""
    stamp = folder / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    subprocess.run(command, cwd=folder, check=True)
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
