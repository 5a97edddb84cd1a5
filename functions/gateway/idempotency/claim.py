"""Idempotency keys: how they are written, what a claim on one says, and what makes requests equal.

After the IETF draft "The Idempotency-Key HTTP Header Field", with one difference: while the first
request is still at work, a repeat gets the same job instead of 409, for a job has a state to show.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contract.errors import MalformedMessage
from contract.fields import Fields, Json

CLAIMS: Final = "claims/"
"""How the names of claims begin."""

LIFETIME_HOURS: Final = 24

_LONGEST: Final = 255
# A String of RFC 9651 section 3.3.3, and whatever else can stand in a header without quotes.
_QUOTED: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]+")


def parse_key(values: Sequence[str]) -> str | None:
    """The key in the header's values, None where there is none; ValueError for what is no key."""
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("is given more than once")
    text = values[0].strip(" \t")
    quoted = _QUOTED.fullmatch(text)
    if quoted is None and not _BARE.fullmatch(text):
        raise ValueError("expected a text in double quotes, or one without spaces and commas")
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not 1 <= len(key) <= _LONGEST:
        raise ValueError(f"expected 1 to {_LONGEST} characters")
    return key


def claim_blob(tenant: str, key: str) -> str:
    """Name of the blob that says which job a tenant's key stands for."""
    # The length keeps "a" + "bc" and "ab" + "c" apart.
    text = f"{len(tenant)}:{tenant}:{key}".encode("utf-8", "replace")
    return f"{CLAIMS}{hashlib.sha256(text).hexdigest()}"


def fingerprint(method: str, model: str, data: bytes, options: Mapping[str, object]) -> str:
    """What two requests under one key must have in common."""
    said = {
        **{name: _plain(value) for name, value in options.items()},
        "method": method,
        "model": model,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(said, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


@dataclass(frozen=True, slots=True)
class Claim:
    """The job that a key stands for, and the request that it was first sent with."""

    job_id: str
    fingerprint: str
    created_at: datetime

    def encode(self) -> bytes:
        """JSON bytes."""
        said: dict[str, Json] = {
            "job_id": self.job_id,
            "fingerprint": self.fingerprint,
            "created_at": self.created_at.isoformat(),
        }
        return json.dumps(said).encode()


def decode_claim(data: bytes) -> Claim | None:
    """The claim in these bytes; None where there is none, which counts as no claim at all."""
    try:
        fields = Fields(json.loads(data))
        return Claim(fields.text("job_id"), fields.text("fingerprint"), fields.time("created_at"))
    except (MalformedMessage, ValueError):
        return None
