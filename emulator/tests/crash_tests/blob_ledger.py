"""Compare the blobs of a storage account with the writes that it has acknowledged.

Each blob has one writer. A writer records each write before it begins and after the service has
acknowledged it. A write without an acknowledgement is in doubt, because the kill may have come
before or after it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

#: The version of a blob that does not exist.
ABSENT = 0


class TornBlob(Exception):
    """The content of a blob is not the content of one write."""


def make_content(name: str, version: int, size_bytes: int) -> bytes:
    """Return the content of a version of a blob.

    The content begins with a line that contains the name, the version and the size. The rest
    repeats the digest of this line, so that a torn blob is recognised.
    """
    head = f"{name} {version} {size_bytes}\n".encode()
    digest = hashlib.sha256(head).hexdigest().encode()
    return (head + digest * (size_bytes // len(digest) + 1))[:size_bytes]


def read_version(name: str, content: bytes) -> int:
    """Return the version of a blob from its content.

    Raises TornBlob if the content is not that of one version of this blob.
    """
    head = content.split(b"\n", 1)[0].decode("ascii", "replace").split(" ")
    if len(head) != 3 or head[0] != name or not (head[1] + head[2]).isdecimal():
        raise TornBlob(f"the blob {name} begins with {content[:60]!r}")
    version, size_bytes = int(head[1]), int(head[2])
    if content != make_content(name, version, size_bytes):
        raise TornBlob(f"the blob {name} of version {version} has {len(content)} other bytes")
    return version


@dataclass
class _BlobHistory:
    """The writes of one blob. `version` is the last acknowledged version, with its ETag."""

    version: int = ABSENT
    etag: str | None = None
    in_doubt: set[int] = field(default_factory=set)
    is_refused: bool = False


class BlobLedger:
    """Records the writes of blobs, and compares each read and each listing with them."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._blobs: dict[str, _BlobHistory] = {}

    def progress(self) -> list[int]:
        """Return the numbers of acknowledged writes and of checked reads."""
        return [self.counts["written"], self.counts["read"]]

    def names(self) -> list[str]:
        """Return the names of all blobs that were ever written."""
        return list(self._blobs)

    def is_in_doubt(self, name: str) -> bool:
        """Return whether a write of this blob has no acknowledgement, and no read has shown it."""
        return bool(self._blobs[name].in_doubt) if name in self._blobs else False

    def etag(self, name: str) -> str | None:
        """Return the ETag of the acknowledged version, or None if the blob does not exist."""
        return self._blobs[name].etag if name in self._blobs else None

    def version(self, name: str) -> int:
        """Return the acknowledged version, or `ABSENT`."""
        return self._blobs[name].version if name in self._blobs else ABSENT

    def begin_write(self, name: str, version: int) -> None:
        """Record that a client begins to write a version, or to delete the blob if `ABSENT`."""
        self._blobs.setdefault(name, _BlobHistory()).in_doubt.add(version)

    def confirm_write(self, name: str, version: int, etag: str | None) -> None:
        """Record that the service has acknowledged a write or, if `ABSENT`, a deletion."""
        self._blobs[name] = _BlobHistory(version, etag)
        self.counts["deleted" if version == ABSENT else "written"] += 1

    def refuse_write(self, name: str) -> None:
        """Record that the service has refused a write because of its condition.

        This is right only if an attempt in doubt has changed the blob, which the next read shows.
        """
        self._blobs[name].is_refused = True

    def read(self, name: str, content: bytes | None, etag: str | None) -> None:
        """Check the content of a blob that a client has read. None means that there is no blob."""
        self.counts["read"] += 1
        try:
            version = ABSENT if content is None else read_version(name, content)
        except TornBlob as error:
            self.violations.append(str(error))
            return
        history = self._blobs.setdefault(name, _BlobHistory())
        if version == history.version:
            if history.is_refused:
                self.violations.append(
                    f"a write of the blob {name} was refused, although version {version} has not "
                    "changed"
                )
            if history.etag is not None and etag != history.etag:
                self.violations.append(f"the ETag of the blob {name} changed without a write")
        elif version not in history.in_doubt:
            self.violations.append(
                f"the blob {name} has version {version}, but version {history.version} was "
                f"acknowledged and {sorted(history.in_doubt)} were attempted after it"
            )
        self._blobs[name] = _BlobHistory(version, etag)

    def list(self, prefix: str, listed: Iterable[str]) -> None:
        """Check the names that the service has listed for a prefix."""
        self.counts["listed"] += 1
        found = list(listed)
        if found != sorted(set(found)):
            self.violations.append(f"the list of {prefix}* is not sorted or has a name twice")
        for name, history in self._blobs.items():
            if not name.startswith(prefix) or history.in_doubt:
                continue
            if (name in found) != (history.version != ABSENT):
                self.violations.append(
                    f"the list of {prefix}* {'has' if name in found else 'does not have'} the blob "
                    f"{name}, of which version {history.version} was acknowledged"
                )
        for name in found:
            if name not in self._blobs:
                self.violations.append(f"the list has the blob {name}, which no client has written")
