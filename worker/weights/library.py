"""Gets a model's weights: out of the cache on disk, or from where its entry points.

The cache holds whole files under their digests. A file is written beside its place, and takes it
in one step once its digest is right: so any number of processes may share the folder, be killed at
any time, and find nothing that is half written. What lies there is hashed again before each use.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contract.catalogue import Model
from worker.errors import WeightsAway, WeightsMismatch
from worker.weights.source import BlobReader, blob_of, file_of
from worker.weights.weights import Weights

_log = logging.getLogger(__name__)

_PART: Final = ".part"
# A download that nobody has written to for so long was left behind by a process that was killed.
_ABANDONED_SECONDS: Final = 3600.0


class Library:
    """The weights of all models, on whatever thread asks."""

    def __init__(self, cache: Path, blobs: BlobReader) -> None:
        self._cache = cache
        self._blobs = blobs

    def get(self, model: Model) -> Weights | None:
        """The model's weights, of the right digest; None where it has none.

        WeightsMissing, WeightsMismatch or WeightsAway.
        """
        if not model.weights:
            return None
        if blob := blob_of(model.weights):
            try:
                return Weights(self._cached(model, *blob), model.weights_sha256)
            except OSError as error:
                # A disk that is full, or a folder that is another user's.
                raise WeightsAway(
                    f"{model.weights}: cannot be kept in {self._cache}: {error.strerror}"
                ) from None
        file = file_of(model.weights)
        found = _digest(file)
        if model.weights_sha256 and found != model.weights_sha256:
            raise _mismatch(model, found)
        return Weights(file, found)

    def _cached(self, model: Model, container: str, blob: str) -> Path:
        file = self._cache / model.weights_sha256
        if file.exists():
            if _digest(file) == model.weights_sha256:
                return file
            _log.warning("%s: the cached weights are damaged and fetched again", model.name)
        begun = time.monotonic()
        size_bytes = self._fetch(model, self._blobs.read(container, blob), file)
        seconds = time.monotonic() - begun
        _log.info("%s: fetched %d bytes of weights in %.1f s", model.name, size_bytes, seconds)
        return file

    def _fetch(self, model: Model, pieces: Iterator[bytes], file: Path) -> int:
        """Write the pieces to the file, which is there as a whole or not at all."""
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
            # Another process may be at it, too.
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()


def _digest(file: Path) -> str:
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def _mismatch(model: Model, found: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"{model.weights}: its SHA-256 digest is {found}, not that of the entry; nothing was loaded"
    )
