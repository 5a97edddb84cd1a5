"""Get a model's weights from the cache on disk, from a blob, or from an installed package.

The cache contains only complete files. The name of each file is the file's digest. A download is
written to a file with a temporary name, which is renamed after the digest was checked. So any
number of processes may share the cache folder and may be killed at any time. The digest of a cached
file is checked again before each use.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from contract.catalogue import ModelEntry
from worker.errors import WeightsMismatch, WeightsMissing, WeightsUnavailable
from worker.weights.weights import Weights

_log = logging.getLogger(__name__)

_BLOB: Final = "blob:"
_PACKAGE: Final = "package:"
_PART: Final = ".part"
# A partial file that has not changed for this time was left behind by a killed process.
_ABANDONED_SECONDS: Final = 3600.0


class BlobReader(Protocol):
    """Reads blobs from any container."""

    def read(self, container: str, blob: str) -> Iterator[bytes]:
        """Yield the content of a blob in chunks.

        Raises:
            WeightsMissing: The blob does not exist.
            WeightsUnavailable: Blob storage cannot be reached. The error may be raised after
                some chunks.
        """
        ...


class AzureBlobReader:
    """Reads blobs from the storage account of the payloads."""

    def __init__(self, account: BlobServiceClient) -> None:
        self._account = account

    def read(self, container: str, blob: str) -> Iterator[bytes]:
        """Yield the content of a blob in chunks, as described in `BlobReader.read`."""
        where = f"{_BLOB}{container}/{blob}"
        try:
            client = self._account.get_blob_client(container, blob)
            yield from client.download_blob(max_concurrency=1).chunks()
        except ResourceNotFoundError:
            raise WeightsMissing(f"{where}: this blob does not exist") from None
        except AzureError as error:
            # The error's text could contain a signed address.
            raise WeightsUnavailable(f"{where}: cannot be read: {type(error).__name__}") from None


class WeightsStore:
    """Fetches the weights of models, and caches them. Any thread may call the methods."""

    def __init__(self, cache: Path, blobs: BlobReader) -> None:
        self._cache = cache
        self._blobs = blobs

    def get(self, model: ModelEntry) -> Weights | None:
        """Return the model's weights after checking their digest; None for a model without weights.

        Raises:
            WeightsMissing: The blob, package or file does not exist.
            WeightsMismatch: The digest differs from the digest in the catalogue entry.
            WeightsUnavailable: Blob storage cannot be reached, or the cache cannot be written.
        """
        if not model.weights:
            return None
        if blob := blob_of(model.weights):
            try:
                return Weights(self._cached(model, *blob), model.weights_sha256)
            except OSError as error:
                # For example a full disk, or another user's folder.
                raise WeightsUnavailable(
                    f"{model.weights}: cannot be stored in {self._cache}: {error.strerror}"
                ) from None
        file = file_of(model.weights)
        found = _file_digest(file)
        if model.weights_sha256 and found != model.weights_sha256:
            raise _mismatch(model, found)
        return Weights(file, found)

    def _cached(self, model: ModelEntry, container: str, blob: str) -> Path:
        file = self._cache / model.weights_sha256
        if file.exists():
            if _file_digest(file) == model.weights_sha256:
                return file
            _log.warning("%s: the cached weights are damaged; fetching them again", model.name)
        begun = time.monotonic()
        size_bytes = self._fetch(model, self._blobs.read(container, blob), file)
        seconds = time.monotonic() - begun
        _log.info("%s: fetched %d bytes of weights in %.1f s", model.name, size_bytes, seconds)
        return file

    def _fetch(self, model: ModelEntry, pieces: Iterator[bytes], file: Path) -> int:
        """Write the downloaded weights to a file atomically, and return the file's size in bytes.

        Raises:
            WeightsMismatch: The digest differs from the digest in the catalogue entry.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(suffix=_PART, prefix=f"{file.name}.", dir=self._cache)
        part = Path(name)
        try:
            with open(handle, "wb") as writer:  # noqa: PTH123  a handle, not a path
                for piece in pieces:
                    digest.update(piece)
                    writer.write(piece)
                writer.flush()
                os.fsync(writer.fileno())
                size_bytes = writer.tell()
            if digest.hexdigest() != model.weights_sha256:
                raise _mismatch(model, digest.hexdigest())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        return size_bytes

    def _remove_abandoned(self) -> None:
        for part in self._cache.glob(f"*{_PART}"):
            # Another process may delete it at the same time.
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()


def _file_digest(file: Path) -> str:
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def _mismatch(model: ModelEntry, found: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"{model.weights}: the SHA-256 digest is {found}, not {model.weights_sha256} as in the "
        "catalogue entry; the weights were not loaded"
    )


def blob_of(weights: str) -> tuple[str, str] | None:
    """Return the container and the name of the weights' blob; None if they are not in a blob.

    `weights` is the value of the key `weights` in the catalogue entry.
    """
    if not weights.startswith(_BLOB):
        return None
    container, _, blob = weights.removeprefix(_BLOB).partition("/")
    return container, blob


def file_of(weights: str) -> Path:
    """Return the path of the weights in an installed package, without importing the package.

    `weights` is the value of the key `weights` in the catalogue entry.

    Raises:
        WeightsMissing: The package is not installed, or does not contain the file.
    """
    package, _, path = weights.removeprefix(_PACKAGE).partition("/")
    found: Any = importlib.util.find_spec(package)
    for location in (found and found.submodule_search_locations) or ():
        folder = Path(location).resolve()
        file = (folder / path).resolve()
        if file.is_relative_to(folder) and file.is_file():
            return file
    raise WeightsMissing(f"{weights}: the package is not installed, or has no such file")
