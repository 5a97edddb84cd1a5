"""Serve a storage account on this machine.

Start this program with `python -m emulator.blobs` or `local-blobs`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator import program
from emulator.blobs.authorization import AccountKey, Authenticator
from emulator.blobs.cors import rule_for_pages
from emulator.blobs.errors import StorageError
from emulator.blobs.server import BlobApp, serve
from emulator.blobs.store import AccountStore
from emulator.blobs.times import utc_now

# The account to which UseDevelopmentStorage=true refers in every Azure SDK. The key is public,
# so it is not a secret.
DEVELOPMENT_ACCOUNT = "devstoreaccount1"
DEVELOPMENT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_BACKLOG = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the storage account until SIGTERM or SIGINT, and return the exit status."""
    options = _parser().parse_args(arguments)
    return program.run("emulator.blobs", options.log_level, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if not _ACCOUNT.fullmatch(options.account):
        raise program.SettingError(
            f"--account {options.account!r} is invalid: use 3 to 24 lower-case letters and digits"
        )
    encoded = _read_key(options.key_file) if options.key_file else options.key
    key = AccountKey(encoded)
    if program.is_remote(options.host) and encoded == DEVELOPMENT_KEY:
        raise program.SettingError(
            f"--host {options.host}: other machines could reach the service, but the key of the "
            "storage account is public: put a secret key into a file for --key-file"
        )
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(listener)
            for listener in program.listen_all(
                options.host, options.port, _BACKLOG, allow_remote=True
            )
        ]
        store = AccountStore(options.data, utc_now)
        store.open()
        if options.cors_origin:
            _allow_origins(store, options.cors_origin)
        app = BlobApp(store, Authenticator(options.account, key, utc_now), utc_now)
        for listener in listeners:
            url = f"{program.format_url(listener)}/{options.account}"
            logging.getLogger(__name__).info("listening on %s, data in %s", url, options.data)
        program.run_loop(serve(app, listeners, program.http_limits(options)))


def _read_key(path: Path) -> str:
    """Return the stripped text of a key file. Raises SettingError without showing it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise program.SettingError(
            f"--key-file {path}: the file cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise program.SettingError(f"--key-file {path}: the file is not ASCII text") from None


def _allow_origins(store: AccountStore, origins: Sequence[str]) -> None:
    """Replace the account's CORS rules with one rule for web pages of these origins.

    The rule allows these pages to use signed links to blobs. Raises SettingError if an origin is
    invalid.
    """
    try:
        store.replace_cors_rules([rule_for_pages(origins)])
    except StorageError as error:
        value, reason = error.detail.get("XmlNodeValue", ""), error.detail.get("Reason", "")
        raise program.SettingError(f"--cors-origin {value} is invalid: {reason}") from None


def _parser() -> argparse.ArgumentParser:
    parser = program.options_parser(
        "emulator.blobs",
        "Serve Azure Blob Storage on this machine.",
        10000,
        "TCP port",
    )
    parser.add_argument("--account", default=DEVELOPMENT_ACCOUNT, help="account name")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file that contains the key of the storage account, encoded in Base64",
    )
    keys.add_argument(
        "--key",
        default=DEVELOPMENT_KEY,
        help="the same key as an argument, which other users of this machine can read",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin read and write blobs, such as http://localhost:3000, or "
        "* for all origins; replaces the CORS rules of the account; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
