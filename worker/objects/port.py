"""The port to the store that holds payloads, small blobs, the log of stop orders, and weights."""

from collections.abc import Iterator

from contract.messages import PayloadRef
from worker.weights.cache import Download


class ObjectsUnavailable(Exception):
    """The store failed or cannot be reached. It may work later. The text contains no address."""


class ObjectMissing(ObjectsUnavailable):
    """The object does not exist."""


class ObjectChanged(ObjectsUnavailable):
    """The object is not the version that was asked for, or changed during the read."""


class BlobStore:
    """The blobs of payloads. The methods raise ObjectsUnavailable if the store fails.

    `timeout_seconds` limits how long each request waits for a connection, and for data on the
    connection. By default, the limits of the store's client apply.
    """

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        """Return an iterator over the content of a blob, in chunks, which raises the same errors.

        Raises:
            ObjectMissing: The blob does not exist.
            ObjectChanged: The blob's ETag differs from the ETag in the reference.
            PayloadCorrupt: The blob's size differs from the size in the reference.
        """
        raise NotImplementedError

    def read_from(self, blob: str, offset: int, max_bytes: int, timeout_seconds: float) -> bytes:
        """Return what a log has from `offset` on; nothing if it does not exist or ends there."""
        raise NotImplementedError

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        """Write a blob. An existing blob with this name is replaced."""
        raise NotImplementedError

    def delete(self, blob: str, timeout_seconds: float | None = None) -> None:
        """Delete a blob if it exists."""
        raise NotImplementedError


class BlobReader:
    """Reads blobs of any container of the store that also holds the payloads."""

    def read(self, container: str, blob: str) -> Download:
        """Start to read a blob. Raises WeightsMissing or, also later, WeightsUnavailable."""
        raise NotImplementedError
