"""Start the two Blob services that the tests use: the emulator and Microsoft's Azurite."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from azure.storage.blob import generate_account_sas

from command_process import wait_until_listening
from local_ports import free_port

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURITE_VERSION = "3.35.0"


@dataclass(frozen=True, slots=True)
class Server:
    """A running Blob service, whose account is the well-known development account of Azure."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.url};"
        )


def signature() -> str:
    """Return an account SAS with all permissions that is valid for an hour."""
    expiry = datetime.now(UTC) + timedelta(hours=1)
    return generate_account_sas(ACCOUNT, KEY, "sco", "rwdlc", expiry)


@contextlib.contextmanager
def run_emulator(
    data: Path, *, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Run the emulator's Blob service with the data directory `data`.

    If `port` is None, the service gets a free port.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "emulator.blobs", "--port", str(port), "--data", str(data)]
    with _running("emulator", [*command, "--log-level", "warning", *options], port) as server:
        yield server


@contextlib.contextmanager
def run_azurite(folder: Path, data: Path) -> Iterator[Server]:
    """Run the Blob service of Azurite, which `install_azurite` installed in `folder`."""
    port = free_port()
    command = [
        str(azurite_program(folder)),
        *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(data)),
        # Without this option Azurite refuses the API version of a newer SDK.
        *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
    ]
    with _running("azurite", command, port) as server:
        yield server


def azurite_program(folder: Path) -> Path:
    """Return the path of Azurite's program, which `install_azurite` installs in `folder`."""
    return folder / "node_modules" / ".bin" / "azurite-blob"


def install_azurite(folder: Path) -> Path:
    """Install Azurite in `folder`, unless it is already installed there.

    The installation needs npm, and Node 20 or newer.
    """
    if not azurite_program(folder).exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = f"azurite@{AZURITE_VERSION}"
        command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), package]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return azurite_program(folder)


@contextlib.contextmanager
def _running(kind: str, command: list[str], port: int) -> Iterator[Server]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until_listening(process, f"http://127.0.0.1:{port}/")
        yield Server(kind, port, process)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    install_azurite(Path(sys.argv[1]))
