"""What an operation needs, and what a request turned out to be allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Permission:
    """What a signature must permit for one operation; any one of the letters suffices.

    ``account_resource`` is the account signature's resource type: ``s``, ``c`` or ``o``.
    An empty ``service_letters`` means that no service signature can permit it.
    """

    account_letters: str
    account_resource: str
    service_letters: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The outcome of authentication.

    ``may_overwrite`` is False for a signature that permits creating and not writing.
    ``response_headers`` are those that a service signature puts in place of the blob's own.
    """

    may_overwrite: bool = True
    response_headers: Mapping[str, str] = field(default_factory=dict)


FULL_GRANT = Grant()
