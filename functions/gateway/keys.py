"""Create API keys, and find the caller to which a key belongs.

The setting API_KEYS contains an entry with a salted hash for each key. It is a JSON list:

    [{"name": "ci", "tenant": "acme", "scopes": ["jobs:read", "jobs:write"], "rate": "100/60",
      "hash": "hmac-sha256:SALT:DIGEST"}]

A key without a tenant is a tenant of its own, with the name of the key.

A key has 256 random bits, so it cannot be guessed, and a fast hash function is sufficient.
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
from enum import StrEnum
from typing import Any, Final

from gateway.rates import Rate, parse_rate

OPEN_TENANT: Final = ""
"""The tenant that owns all jobs if the gateway uses no authentication."""


def owner_of(tenant: str) -> str:
    """Return the digest that stands for a tenant in the names of blobs and in URLs."""
    return hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:16]


class Scope(StrEnum):
    """A permission that an API key gives to its caller.

    With `ops:read`, an operator can read data of all tenants, but change nothing. `admin` includes
    `ops:read`, and also permits the operators' changes, such as a redrive.
    """

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    OPS_READ = "ops:read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of the API. The rate limit counts by `name`, and jobs belong to `tenant`."""

    name: str
    tenant: str
    scopes: frozenset[Scope]
    rate: Rate | None = None

    @property
    def is_operator(self) -> bool:
        """Whether the caller may see the jobs and dead letters of all tenants."""
        return not self.scopes.isdisjoint({Scope.OPS_READ, Scope.ADMIN})

    @property
    def logged_name(self) -> str:
        """The name of the caller for the log. This is the name of the API key, never the key."""
        return self.name or "(no key)"


OPEN_CALLER: Final = Caller("", OPEN_TENANT, frozenset(Scope))
"""The caller of every request to a gateway without authentication, which is on loopback."""

ANONYMOUS: Final = Caller("", OPEN_TENANT, frozenset())
"""The caller of every request that is allowed without a key, if the gateway has keys."""


_PREFIX: Final = "lsy_"
"""The prefix of all keys, by which scanners can find a key in source code or logs."""

_METHOD: Final = "hmac-sha256"
_SALT_BYTES: Final = 16
_MAX_KEY_BYTES: Final = 256
MAX_NAME_CHARACTERS: Final = 64
_FIELDS: Final = frozenset({"name", "tenant", "scopes", "rate", "hash"})
_DEFAULT_SCOPES: Final = (Scope.JOBS_READ, Scope.JOBS_WRITE)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored API key: its caller, and the salt and hash of the key."""

    caller: Caller
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


class KeyRing:
    """Finds the caller to which an API key belongs."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)
        # The cache's keys are hashes made with a secret of this process. Therefore the memory
        # contains no API keys, and the time of a look-up reveals nothing about them.
        self._secret = secrets.token_bytes(32)
        self.known: dict[bytes, Caller] = {}

    def caller(self, key: bytes) -> Caller | None:
        """Return the caller of a valid key. Only valid keys are cached, to limit the memory."""
        if not 0 < len(key) <= _MAX_KEY_BYTES:
            return None
        short = _digest(self._secret, key)
        known = self.known.get(short)
        if known is None:
            # The key is compared with all entries in constant time, so the time reveals nothing.
            matching = [
                entry
                for entry in self._keys
                if hmac.compare_digest(_digest(entry.salt, key), entry.digest)
            ]
            if not matching:
                return None
            known = self.known[short] = matching[0].caller
        return known


def make_key(
    name: str,
    tenant: str | None = None,
    scopes: Sequence[str] = _DEFAULT_SCOPES,
    rate_text: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Create an API key; return it and its entry for API_KEYS. Raises ValueError."""
    key, salt = _PREFIX + secrets.token_urlsafe(32), secrets.token_bytes(_SALT_BYTES)
    digest = _digest(salt, key.encode())
    entry: dict[str, Any] = {"name": name, "tenant": tenant, "scopes": list(scopes)}
    if tenant is None:
        del entry["tenant"]
    if rate_text is not None:
        entry["rate"] = rate_text
    entry["hash"] = f"{_METHOD}:{_encode_base64(salt)}:{_encode_base64(digest)}"
    _read_entry(entry)
    return key, entry


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read API_KEYS. Raises ValueError, whose message contains no part of the value."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        # ValueError and not TypeError, because the content of a setting is wrong.
        raise ValueError(  # noqa: TRY004
            "expected a JSON list; create its entries with `loosely keys new`"
        )
    keys = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_read_entry(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    numbers: dict[str, int] = {}
    for number, key in enumerate(keys, 1):
        if (first := numbers.setdefault(key.caller.name, number)) != number:
            raise ValueError(
                f"entries {first} and {number} have the same name; give each entry a different name"
            )
    named = {
        entry["tenant"]: number for number, entry in enumerate(entries, 1) if "tenant" in entry
    }
    for number, entry in enumerate(entries, 1):
        if "tenant" not in entry and (other := named.get(entry["name"])) is not None:
            raise ValueError(
                f"entry {number} has no tenant, and its name is the tenant of entry {other}; give "
                "it a tenant or another name"
            )
    return tuple(keys)


def _read_entry(entry: object) -> ApiKey:
    if not isinstance(entry, Mapping) or not _FIELDS.issuperset(entry):
        raise ValueError(f"expected an object with only these fields: {', '.join(sorted(_FIELDS))}")
    scopes = entry.get("scopes", list(_DEFAULT_SCOPES))
    known = list(Scope)
    if not isinstance(scopes, list) or not scopes or any(one not in known for one in scopes):
        raise ValueError(f"scopes: expected a list of one or more of {', '.join(Scope)}")
    given_rate = entry.get("rate")
    if given_rate is not None and not isinstance(given_rate, str):
        raise ValueError("rate: expected REQUESTS/SECONDS, for example 100/60")
    try:
        limit = None if given_rate is None else parse_rate(given_rate)
    except ValueError as error:
        raise ValueError(f"rate: {error}") from None
    name = _read_name(entry, "name")
    tenant = _read_name(entry, "tenant") if "tenant" in entry else name
    caller = Caller(name, tenant, frozenset(map(Scope, scopes)), limit)
    return ApiKey(caller, *_read_hash(entry.get("hash")))


def _read_name(entry: Mapping[str, Any], field_name: str) -> str:
    value = entry.get(field_name)
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_NAME_CHARACTERS
        or not value.isprintable()
    ):
        raise ValueError(f"{field_name}: expected 1 to {MAX_NAME_CHARACTERS} printable characters")
    return value


def _read_hash(value: object) -> tuple[bytes, bytes]:
    method, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    try:
        salt, digest = (base64.urlsafe_b64decode(part + "==") for part in rest.split(":"))
    except (binascii.Error, ValueError):
        salt, digest = b"", b""
    if method != _METHOD or len(salt) < _SALT_BYTES or len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"hash: expected {_METHOD}:SALT:DIGEST; create it with `loosely keys new`")
    return salt, digest


def _digest(salt: bytes, key: bytes) -> bytes:
    return hmac.digest(salt, key, "sha256")


def _encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Create an API key; print the key and its entry for API_KEYS, each on its own line."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.keys", description="Create an API key."
    )
    parser.add_argument("name", help="the unique name of the key")
    parser.add_argument(
        "--tenant",
        help="the tenant whose jobs the key can create and read; by default the key's own",
    )
    parser.add_argument(
        "--scopes", nargs="+", choices=list(Scope), default=list(_DEFAULT_SCOPES), metavar="SCOPE"
    )
    parser.add_argument(
        "--rate",
        metavar="N/SECONDS",
        help="at most N requests in SECONDS, for example 100/60; by default there is no limit",
    )
    options = parser.parse_args(arguments)
    try:
        key, entry = make_key(options.name, options.tenant, options.scopes, options.rate)
    except ValueError as error:
        parser.error(str(error))
    sys.stderr.write(
        "The new key, which is shown only once, and its entry for the list in API_KEYS:\n"
    )
    sys.stdout.write(f"{key}\n{json.dumps(entry)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
