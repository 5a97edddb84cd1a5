"""Compare the blobs of a storage account with the writes that the account has acknowledged.

Each blob has one writer. The writer records each write twice: before it sends the write, and after
the service has acknowledged the write. A write without an acknowledgement is in doubt, because the
service may have been killed before or after the write.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

#: The version of a blob that does not exist.
ABSENT = 0


class TornBlob(Exception):
    """Raised if the content of a blob is not the content of one single write."""


def make_content(name: str, version: int, size_bytes: int) -> bytes:
    """Return the content of one version of a blob, with `size_bytes` bytes."""
    head = f"{name} {version} {size_bytes}\n".encode()
    digest = hashlib.sha256(head).hexdigest().encode()
    return (head + digest * (size_bytes // len(digest) + 1))[:size_bytes]


def read_version(name: str, content: bytes) -> int:
    """Return the version in a blob's content. Raises TornBlob if the content mixes versions."""
    head = content.split(b"\n", 1)[0].decode("ascii", "replace").split(" ")
    if len(head) != 3 or head[0] != name or not (head[1] + head[2]).isdecimal():
        raise TornBlob(f"the blob {name} begins with {content[:60]!r}")
    version, size_bytes = int(head[1]), int(head[2])
    if content != make_content(name, version, size_bytes):
        raise TornBlob(f"the blob {name} of version {version} has {len(content)} other bytes")
    return version


@dataclass
class _BlobHistory:
    """The writes of one blob: the last acknowledged version, and later attempts to write.

    `etag` is the ETag of the acknowledged version. `in_doubt` contains the versions that a client
    has tried to write after the acknowledged version. `is_refused` is True if the service has
    refused one of these attempts because the condition of the write was not met.
    """

    version: int = ABSENT
    etag: str | None = None
    in_doubt: set[int] = field(default_factory=set)
    is_refused: bool = False


class BlobLedger:
    """Records the writes of blobs, and checks whether clients read and list what was written.

    `violations` contains a sentence for each difference that a kill does not explain.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._blobs: dict[str, _BlobHistory] = {}

    def progress(self) -> list[int]:
        """Return how many writes were acknowledged so far, and how many reads were checked."""
        return [self.counts["written"], self.counts["read"]]

    def names(self) -> list[str]:
        """Return the names of all blobs that a client has written or tried to write."""
        return list(self._blobs)

    def is_in_doubt(self, name: str) -> bool:
        """Return whether the current version of the blob is uncertain."""
        return bool(self._blobs[name].in_doubt) if name in self._blobs else False

    def etag(self, name: str) -> str | None:
        """Return the ETag of a blob's acknowledged version, or None if the blob does not exist."""
        return self._blobs[name].etag if name in self._blobs else None

    def version(self, name: str) -> int:
        """Return the blob's acknowledged version, or `ABSENT` if the blob does not exist."""
        return self._blobs[name].version if name in self._blobs else ABSENT

    def begin_write(self, name: str, version: int) -> None:
        """Record that a client begins to write a version of a blob."""
        self._blobs.setdefault(name, _BlobHistory()).in_doubt.add(version)

    def confirm_write(self, name: str, version: int, etag: str | None) -> None:
        """Record that the service has acknowledged a write of a blob."""
        self._blobs[name] = _BlobHistory(version, etag)
        self.counts["deleted" if version == ABSENT else "written"] += 1

    def refuse_write(self, name: str) -> None:
        """Record that the service has refused a write because the write's condition was not met."""
        self._blobs[name].is_refused = True

    def read(self, name: str, content: bytes | None, etag: str | None) -> None:
        """Compare the content and the ETag that a client has read with the writes of the blob.

        Add a sentence to `violations` for each difference that a kill does not explain. The content
        None means that the blob does not exist.
        """
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
        """Compare the blob names in the service's list for a prefix with the recorded writes.

        Add a sentence to `violations` for each difference that a kill does not explain.
        """
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
