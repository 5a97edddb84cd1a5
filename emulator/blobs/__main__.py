"""``python -m emulator.blobs``: serve a storage account on a loopback port."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator.blobs.app import BlobApp
from emulator.blobs.auth import Authenticator
from emulator.blobs.auth.signature import AccountKey
from emulator.blobs.errors import PortInUseError, SettingError
from emulator.blobs.server import listen, serve
from emulator.blobs.store import Store
from emulator.blobs.times import utc_now

try:
    import uvloop as loops
except ImportError:  # not made for Windows
    import asyncio as loops  # type: ignore[no-redef] # both have new_event_loop

# The storage account that every Azure SDK knows as UseDevelopmentStorage=true: public, no secret.
DEVELOPMENT_ACCOUNT = "devstoreaccount1"
DEVELOPMENT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_EXIT_SETTING = 2
_EXIT_PORT_IN_USE = 98


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        _run(options)
    except SettingError as error:
        print(f"emulator.blobs: {error}", file=sys.stderr)  # noqa: T201 - the command line's answer
        return _EXIT_SETTING
    except PortInUseError as error:
        print(f"emulator.blobs: {error}", file=sys.stderr)  # noqa: T201 - the command line's answer
        return _EXIT_PORT_IN_USE
    return 0


def _run(options: argparse.Namespace) -> None:
    if not _ACCOUNT.fullmatch(options.account):
        raise SettingError("--account is 3 to 24 lower-case letters and digits")
    key = AccountKey(options.key)
    listener = listen(options.host, options.port)
    with listener:
        store = Store(options.data, utc_now)
        store.open()
        app = BlobApp(store, Authenticator(options.account, key, utc_now), utc_now)
        host, port = listener.getsockname()[:2]
        logging.getLogger(__name__).info(
            "listening on http://%s:%d/%s, data in %s", host, port, options.account, options.data
        )
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(serve(app, listener))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emulator.blobs",
        description="A Blob storage on this machine, for azure-storage-blob.",
    )
    parser.add_argument("--port", type=_port, default=10000, help="TCP port (default: 10000)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--data", type=Path, required=True, help="directory to keep blobs in")
    parser.add_argument("--account", default=DEVELOPMENT_ACCOUNT, help="account name")
    parser.add_argument("--key", default=DEVELOPMENT_KEY, help="account key, in Base64")
    parser.add_argument(
        "--log-level",
        default="info",
        type=str.lower,
        choices=["debug", "info", "warning", "error"],
        help="least severe messages to log (default: info)",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("not between 0 and 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
