"""API keys: how they are made, written down as salted hashes, and recognised.

    python -m gateway.access.keys NAME --tenant TENANT [--scopes SCOPE …] [--rate 100/60]

prints a new key, which goes to the caller, and its entry for the setting API_KEYS, a JSON list:

    [{"name": "ci", "tenant": "acme", "scopes": ["jobs:read", "jobs:write"], "rate": "100/60",
      "hash": "hmac-sha256:SALT:DIGEST"}]

A key has 256 random bits. No amount of guessing finds one, so its hash need not be slow as that of
a password must be: the salt keeps equal keys from looking equal, and that is all it has to do.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.access.callers import Caller, Scope
from gateway.access.rates import rate

_PREFIX: Final = "lsy_"
"""Lets scanners of source code and logs find a key that has strayed."""

_METHOD: Final = "hmac-sha256"
_SALT_BYTES: Final = 16
_LONGEST_KEY_BYTES: Final = 256
_LONGEST_NAME: Final = 64
_FIELDS: Final = frozenset({"name", "tenant", "scopes", "rate", "hash"})
_DEFAULT_SCOPES: Final = (Scope.JOBS_READ, Scope.JOBS_WRITE)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is written down: whose it is, and how to recognise it."""

    caller: Caller
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


class KeyRing:
    """Finds the caller behind a key."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)
        # Under a secret of this process: neither a key itself nor what could be tried out offline
        # lies in memory, and how long a look-up takes says nothing of any key.
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, Caller] = {}

    def caller(self, key: bytes) -> Caller | None:
        """Whose key this is, or None.

        Only keys that were right are remembered, so that strangers cannot fill the memory.
        """
        if not 0 < len(key) <= _LONGEST_KEY_BYTES:
            return None
        short = _digest(self._secret, key)
        known = self._known.get(short)
        if known is None:
            # Each is compared, and to its end: the time tells nothing of which came near.
            right = [
                entry
                for entry in self._keys
                if hmac.compare_digest(_digest(entry.salt, key), entry.digest)
            ]
            if not right:
                return None
            known = self._known[short] = right[0].caller
        return known


def make(
    name: str, tenant: str, scopes: Sequence[str] = _DEFAULT_SCOPES, rate_text: str | None = None
) -> tuple[str, dict[str, Any]]:
    """A new key, and its entry for the setting. ValueError where a part is no good."""
    key, salt = _PREFIX + secrets.token_urlsafe(32), secrets.token_bytes(_SALT_BYTES)
    digest = _digest(salt, key.encode())
    entry: dict[str, Any] = {"name": name, "tenant": tenant, "scopes": list(scopes)}
    if rate_text is not None:
        entry["rate"] = rate_text
    entry["hash"] = f"{_METHOD}:{_text(salt)}:{_text(digest)}"
    _api_key(entry)
    return key, entry


def parse(text: str) -> tuple[ApiKey, ...]:
    """The keys in the setting; ValueError says what is wrong, without any of the values."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        # ValueError, not TypeError: it is a text that a person wrote.
        raise ValueError(  # noqa: TRY004
            "expected a JSON list; python -m gateway.access.keys makes its entries"
        )
    keys = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_api_key(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    names = {key.caller.name for key in keys}
    if len(names) < len(keys):
        raise ValueError("two entries have the same name")
    return tuple(keys)


def _api_key(entry: object) -> ApiKey:
    if not isinstance(entry, Mapping) or not _FIELDS.issuperset(entry):
        raise ValueError(f"expected an object of {', '.join(sorted(_FIELDS))}")
    scopes = entry.get("scopes", list(_DEFAULT_SCOPES))
    known = list(Scope)
    if not isinstance(scopes, list) or not scopes or any(one not in known for one in scopes):
        raise ValueError(f"scopes: expected a list of {', '.join(Scope)}")
    given_rate = entry.get("rate")
    if given_rate is not None and not isinstance(given_rate, str):
        raise ValueError("rate: expected requests/seconds, such as 100/60")
    try:
        limit = None if given_rate is None else rate(given_rate)
    except ValueError as error:
        raise ValueError(f"rate: {error}") from None
    caller = Caller(
        _name(entry, "name"), _name(entry, "tenant"), frozenset(map(Scope, scopes)), limit
    )
    return ApiKey(caller, *_salt_and_digest(entry.get("hash")))


def _name(entry: Mapping[str, Any], field_name: str) -> str:
    value = entry.get(field_name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{field_name}: expected a text of 1 to {_LONGEST_NAME} characters")
    return value


def _salt_and_digest(value: object) -> tuple[bytes, bytes]:
    method, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    try:
        salt, digest = (base64.urlsafe_b64decode(part + "==") for part in rest.split(":"))
    except (binascii.Error, ValueError):
        salt, digest = b"", b""
    if method != _METHOD or len(salt) < _SALT_BYTES or len(digest) != hashlib.sha256().digest_size:
        raise ValueError(
            f"hash: expected {_METHOD}:SALT:DIGEST, as python -m gateway.access.keys makes it"
        )
    return salt, digest


def _digest(salt: bytes, key: bytes) -> bytes:
    return hmac.digest(salt, key, "sha256")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a new key and its entry, each on a line of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.access.keys", description="Make an API key."
    )
    parser.add_argument("name", help="what the key is called; unique")
    parser.add_argument("--tenant", required=True, help="whose jobs it makes and sees")
    parser.add_argument(
        "--scopes", nargs="+", choices=list(Scope), default=list(_DEFAULT_SCOPES), metavar="SCOPE"
    )
    parser.add_argument("--rate", metavar="N/SECONDS", help="such as 100/60; unlimited without")
    options = parser.parse_args(arguments)
    try:
        key, entry = make(options.name, options.tenant, options.scopes, options.rate)
    except ValueError as error:
        parser.error(str(error))
    sys.stderr.write("The key, to be shown once, and its entry for the list in API_KEYS:\n")
    sys.stdout.write(f"{key}\n{json.dumps(entry)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
