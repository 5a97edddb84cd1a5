"""Test the emulator with one release of each minor version of azure-servicebus since 7.8.

`python -m servicebus_tests.sdk.upstream.versions [VERSION…]`

Each version is installed into a virtual environment of its own, in the folder that the environment
variable CONFORMANCE_FOLDER names. If the variable is not set, the versions are downloaded again for
each run.

Clients before 7.14 cannot be configured for a development emulator: they always use TLS and port
5671. So the emulator serves TLS on this port, with a certificate that the clients trust. The port
must be free.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from servicebus_tests.sdk.certificate import make_certificate
from servicebus_tests.sdk.servicebus_process import KEY, KEY_NAME, Server, run_server

VERSIONS = "7.8.3", "7.9.0", "7.10.0", "7.11.4", "7.12.3", "7.13.0", "7.14.3", "7.15.0"
_SCENARIO = Path(__file__).with_name("scenario.py")
_SECONDS = 120


def main(arguments: list[str]) -> int:
    """Run scenario.py with each version of azure-servicebus. Return 1 if any run failed, else 0."""
    kept = os.environ.get("CONFORMANCE_FOLDER")
    with tempfile.TemporaryDirectory(prefix="servicebus-versions-") as temporary:
        folder = Path(kept or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = make_certificate(folder)
        options = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-port", "5671"]
        with run_server(Path(temporary) / "data", options) as server:
            wanted = arguments or VERSIONS
            failed = [each for each in wanted if not run(each, folder, server, certificate)]
    if failed:
        sys.stdout.write(f"failed with azure-servicebus {', '.join(failed)}\n")
    return 1 if failed else 0


def run(version: str, folder: Path, server: Server, certificate: Path) -> bool:
    """Run scenario.py with this version of azure-servicebus. Return whether the run succeeded."""
    connection_string = (
        f"Endpoint=sb://localhost/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY}"
    )
    queue = server.create_queue()
    command: list[str | Path] = [
        install(version, folder),
        _SCENARIO,
        connection_string,
        queue,
        certificate,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        sys.stdout.write(f"azure-servicebus {version}: no result within {_SECONDS} s\n")
        return False
    succeeded = done.returncode == 0
    sys.stdout.write(f"azure-servicebus {version}: {'passed' if succeeded else done.stderr}\n")
    return succeeded


def install(version: str, folder: Path) -> Path:
    """Install a version in its own virtual environment, and return the interpreter's path.

    If the environment already exists, it is used again.
    """
    python = folder / f"servicebus-{version}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        packages = f"azure-servicebus=={version}", "aiohttp"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
