"""Shared access policies, which Azure's APIs call authorization rules, and their rights."""

import re
import secrets
from base64 import b64encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.servicebus.broker.errors import ArgumentError

MAX_RULES = 12
"""The number of policies that a namespace, a queue or a topic can have, as in Azure."""

_KEY_BYTES = 32
_MAX_KEY_LENGTH = 256
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,48}[A-Za-z0-9])?")
# A connection string separates its parts by semicolons.
_KEY = re.compile(rf"[!-:<-~]{{1,{_MAX_KEY_LENGTH}}}")


class AccessRight(StrEnum):
    """A right of a shared access policy."""

    LISTEN = "Listen"
    SEND = "Send"
    MANAGE = "Manage"


ALL_RIGHTS = frozenset(AccessRight)


@dataclass(frozen=True, slots=True)
class AuthorizationRule:
    """A shared access policy of a namespace, a queue or a topic.

    Neither `repr` nor the constructor's ArgumentError shows a key.
    """

    name: str
    rights: frozenset[AccessRight]
    primary_key: str = field(repr=False)
    secondary_key: str = field(default="", repr=False)
    """A second valid key. Empty if the policy has only one key."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ArgumentError(
                f"policy {self.name[:100]!r}: the name must have at most 50 letters, digits "
                "and . _ -, and must begin and end with a letter or digit"
            )
        if not self.rights:
            raise ArgumentError(f"policy {self.name!r}: expected at least one right")
        if AccessRight.MANAGE in self.rights and self.rights != ALL_RIGHTS:
            raise ArgumentError(
                f"policy {self.name!r}: the right Manage requires Listen and Send as well"
            )
        for key in (self.primary_key, *self.keys):
            if not _KEY.fullmatch(key):
                raise ArgumentError(
                    f"policy {self.name!r}: each key must have 1 to {_MAX_KEY_LENGTH} printable "
                    "ASCII characters, and no blanks or semicolons"
                )

    @property
    def keys(self) -> tuple[str, ...]:
        """The valid keys of the policy."""
        return tuple(filter(None, (self.primary_key, self.secondary_key)))


def read_rights(names: Iterable[object]) -> frozenset[AccessRight]:
    """Convert the names of rights. Raises ArgumentError if a name is not a right."""
    rights = set()
    for name in names:
        try:
            rights.add(AccessRight(str(name)))
        except ValueError:
            raise ArgumentError(
                f"Rights: expected Listen, Send or Manage, found {str(name)[:100]!r}"
            ) from None
    return frozenset(rights)


def sorted_rights(rights: Collection[AccessRight]) -> list[str]:
    """Return the names of the rights in a fixed order: Listen, Send, Manage."""
    return [right.value for right in AccessRight if right in rights]


def check_rules(rules: Collection[AuthorizationRule]) -> None:
    """Raise ArgumentError if there are more than 12 policies or two have the same name."""
    if len(rules) > MAX_RULES:
        raise ArgumentError(f"AuthorizationRules: expected at most {MAX_RULES}, found {len(rules)}")
    names: set[str] = set()
    for rule in rules:
        if rule.name in names:
            raise ArgumentError(f"AuthorizationRules: two policies have the name {rule.name!r}")
        names.add(rule.name)


def make_missing_keys(primary: str | None, secondary: str | None) -> tuple[str, str]:
    """Return a new policy's keys: both generated without a primary one, otherwise as given."""
    if primary:
        return primary, secondary or ""
    return _make_key(), secondary or _make_key()


def _make_key() -> str:
    """Return a new random key: 256 random bits in Base64, as in Azure."""
    return b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
