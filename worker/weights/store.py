"""Find a model's weights: in blob storage, on the Hugging Face Hub, in a package, or in a folder.

`WeightsStore` checks the digest of the weights before each use. Downloaded weights are kept in a
cache on disk.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from contract.catalogue import ModelEntry
from contract.weights import (
    HUB_CONTAINER,
    WeightsLocation,
    WeightsScheme,
    hub_blob,
    parse_weights,
)
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.weights.cache import Download, WeightsCache, digest_mismatch, file_digest
from worker.weights.onnx_file import check_single_file
from worker.weights.weights import Weights

_LOCAL: Final = (WeightsScheme.FILE, WeightsScheme.PACKAGE)


class BlobReader(Protocol):
    """Reads blobs from any container."""

    def read(self, container: str, blob: str) -> Download:
        """Start to read a blob.

        Raises:
            WeightsMissing: The blob does not exist.
            WeightsUnavailable: Blob storage cannot be reached. The error may also be raised while
                the blob is read.
        """


class HubReader(Protocol):
    """Reads files of the Hugging Face Hub."""

    def read(self, location: WeightsLocation) -> Download:
        """Start to read a file.

        Raises:
            WeightsMissing: The file does not exist.
            WeightsUnavailable: The hub cannot be reached. The error may also be raised while the
                file is read.
        """


class WeightsStore:
    """Finds the weights of models, and caches downloads. Any thread may call the methods."""

    def __init__(
        self,
        cache: Path,
        blobs: BlobReader,
        hub: HubReader | None = None,
        cache_limit_bytes: int | None = None,
    ) -> None:
        """Store the arguments. No weights are read.

        Args:
            cache: The folder for downloaded weights.
            blobs: Reads weights from blob storage.
            hub: Reads weights from the Hugging Face Hub; None if the worker must not use the
                internet. Then the weights are read from the copies that the deployment has made in
                blob storage.
            cache_limit_bytes: The largest size of the cache; None for no limit.
        """
        self._cache = WeightsCache(cache, cache_limit_bytes)
        self._blobs = blobs
        self._hub = hub

    def get(self, model: ModelEntry) -> Weights | None:
        """Return the model's weights after checking their digest; None for a model without weights.

        Raises:
            WeightsMissing: The weights do not exist at their location, or the hub's token does not
                permit reading them.
            WeightsMismatch: The digest differs from the digest in the catalogue entry.
            WeightsUnavailable: Blob storage or the hub cannot be reached, or the cache cannot be
                written.
        """
        if not model.weights:
            return None
        location = parse_weights(model.weights)
        if location.scheme in _LOCAL:
            file = find_file(location)
            found = file_digest(file)
            if model.weights_sha256 and found != model.weights_sha256:
                raise digest_mismatch(model.weights, found, model.weights_sha256)
            return Weights(file, found)
        start = partial(self._start, location, model.weights_sha256)
        return Weights(
            self._cache.get(model.weights, model.weights_sha256, start), model.weights_sha256
        )

    def compute_digest(self, weights: str) -> str:
        """Return the SHA-256 digest of weights. Weights that are not local are downloaded first.

        Args:
            weights: The value of the key `weights` of a catalogue entry.

        Raises:
            ValueError: The value is not a location of weights.
            WeightsMissing: The weights do not exist at their location, or the hub's token does not
                permit reading them.
            WeightsUnavailable: Blob storage or the hub cannot be reached, the cache cannot be
                written, or the weights are on the hub and HF_HUB_OFFLINE is set.
            WeightsUnfit: The weights are an ONNX file that refers to a second file.
        """
        location = parse_weights(weights)
        if location.scheme in _LOCAL:
            file = find_file(location)
            if file.suffix == ".onnx":
                check_single_file(file)
            return file_digest(file)
        return self._cache.add(weights, partial(self._start, location, ""))

    def _start(self, location: WeightsLocation, sha256: str) -> Download:
        """Start to download weights from a blob or from the hub.

        If this worker must not use the hub, the copy of the weights in blob storage is read. The
        name of this blob contains `sha256`.
        """
        if location.scheme is WeightsScheme.BLOB:
            return self._blobs.read(location.place, location.path)
        if self._hub is not None:
            return self._hub.read(location)
        where = f"hf:{location.place}@{location.commit}/{location.path}"
        if not sha256:
            raise WeightsUnavailable(f"{where}: HF_HUB_OFFLINE is set; unset it to download")
        try:
            return self._blobs.read(HUB_CONTAINER, hub_blob(sha256))
        except WeightsMissing:
            raise WeightsMissing(
                f"{where}: HF_HUB_OFFLINE is set, and the storage account does not contain "
                f"the copy of these weights, {HUB_CONTAINER}/{hub_blob(sha256)}: run "
                "infra/scripts/fetch-weights.sh"
            ) from None


def find_file(location: WeightsLocation) -> Path:
    """Return the path of weights in the model folder or in an installed package.

    The model folder is the working directory. The package is not imported.

    Raises:
        WeightsMissing: The file does not exist, the package is not installed, or the package does
            not contain the file.
    """
    if location.scheme is WeightsScheme.FILE:
        file = Path(location.path).resolve()
        if file.is_file():
            return file
        raise WeightsMissing(
            f"file:{location.path}: there is no file {file}: check the key `weights` of the "
            "model's entry in the catalogue"
        )
    found: Any = importlib.util.find_spec(location.place)
    for each in (found and found.submodule_search_locations) or ():
        folder = Path(each).resolve()
        file = (folder / location.path).resolve()
        if file.is_relative_to(folder) and file.is_file():
            return file
    raise WeightsMissing(
        f"package:{location.place}/{location.path}: the package is not installed, or has no such "
        "file: install the package, or correct the path"
    )
