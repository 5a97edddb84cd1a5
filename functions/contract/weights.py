"""Parse the location of a model's weights: the value of `weights` in the model's catalogue entry.

blob:CONTAINER/NAME           a blob in the storage account for payloads
file:PATH                     a file in the model folder
hf:ORG/NAME@COMMIT/FILE       a file of a repository on the Hugging Face Hub
package:PACKAGE/PATH          a file of an installed Python package
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

_LOCATION: Final = re.compile(
    r"(?P<scheme>blob|file|hf|package):(?P<rest>[^\\\x00-\x1f\x7f]{1,1200})"
)
_CONTAINER: Final = re.compile(r"[a-z0-9-]{3,63}")
_PACKAGE: Final = re.compile(r"\w+")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_PATH_CHARACTERS: Final = 1024

EXPECTED: Final = (
    "expected blob:CONTAINER/NAME, file:PATH, hf:ORG/NAME@COMMIT/FILE or package:PACKAGE/PATH"
)
HUB_CONTAINER: Final = "weights"
"""The blob container into which a deployment copies weights from the Hugging Face Hub."""


class WeightsScheme(StrEnum):
    """The kind of place in which a model's weights are stored."""

    BLOB = "blob"
    FILE = "file"
    HUB = "hf"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class WeightsLocation:
    """A parsed location of weights.

    `place` is the container, the package, or the repository as ORG/NAME; empty for a file. Only
    weights on the Hugging Face Hub have a `commit`.
    """

    scheme: WeightsScheme
    place: str
    path: str
    commit: str = ""

    @property
    def needs_digest(self) -> bool:
        """Whether a catalogue entry with these weights must have the key `weights_sha256`."""
        # Without a digest, everyone who can write to this place could choose the code that runs.
        return self.scheme in (WeightsScheme.BLOB, WeightsScheme.HUB)

    @property
    def hub_path(self) -> str:
        """The path of the file in URLs of the Hugging Face Hub, without a leading slash."""
        return f"{self.place}/resolve/{self.commit}/{quote(self.path)}"


def parse_weights(text: str) -> WeightsLocation:
    """Return the location that a text names. Raises ValueError, which says what is expected."""
    found = _LOCATION.fullmatch(text)
    if found is None:
        raise ValueError(EXPECTED)
    scheme, rest = WeightsScheme(found["scheme"]), found["rest"]
    if scheme is WeightsScheme.FILE:
        location = WeightsLocation(scheme, "", rest)
    elif scheme is WeightsScheme.HUB:
        location = _parse_hub(rest)
    else:
        place, _, path = rest.partition("/")
        pattern = _CONTAINER if scheme is WeightsScheme.BLOB else _PACKAGE
        if not pattern.fullmatch(place):
            raise ValueError(EXPECTED)
        location = WeightsLocation(scheme, place, path)
    if not 0 < len(location.path) <= _MAX_PATH_CHARACTERS:
        raise ValueError(EXPECTED)
    is_relative = not {"", ".", ".."} & set(location.path.split("/"))
    if scheme in (WeightsScheme.FILE, WeightsScheme.HUB) and not is_relative:
        raise ValueError(
            f"expected a relative path without empty parts, `.` or `..`, found {location.path!r}"
        )
    return location


def _parse_hub(rest: str) -> WeightsLocation:
    match = re.fullmatch(r"([^@/]+/[^@/]+)(?:@([^/]*))?/(.+)", rest)
    if match is None or not _REPOSITORY.fullmatch(match[1]):
        raise ValueError(EXPECTED)
    repository, commit, path = match[1], match[2], match[3]
    if commit is None or not _COMMIT.fullmatch(commit):
        given = "no commit" if not commit else f"{commit!r}"
        raise ValueError(
            f"expected a commit of 40 hexadecimal digits after {repository}@, found {given}: a "
            "branch or a tag may refer to different weights later; copy the commit from the "
            "repository's history"
        )
    return WeightsLocation(WeightsScheme.HUB, repository, path, commit)


def hub_blob(sha256: str) -> str:
    """Return the name, in HUB_CONTAINER, of the copy of weights from the Hugging Face Hub."""
    return f"sha256/{sha256}"


def list_hub_files(models: Iterable[tuple[str, str]]) -> list[str]:
    """Return the digest and the URL path of each file of weights on the Hugging Face Hub, sorted.

    `models` has the values of `weights` and `weights_sha256` of each catalogue entry.
    """
    lines = {
        f"{sha256} {location.hub_path}"
        for weights, sha256 in models
        if weights and (location := parse_weights(weights)).scheme is WeightsScheme.HUB
    }
    return sorted(lines)
