"""Where weights come from: a blob, or a file of an installed package."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from worker.errors import WeightsAway, WeightsMissing

_BLOB: Final = "blob:"
_PACKAGE: Final = "package:"


class BlobReader(Protocol):
    """Reads blobs of any container in pieces."""

    def read(self, container: str, blob: str) -> Iterator[bytes]:
        """The blob's bytes; WeightsMissing or WeightsAway, also in the middle."""
        ...


class AzureBlobReader:
    """Blobs of the storage account that also holds the payloads."""

    def __init__(self, account: BlobServiceClient) -> None:
        self._account = account

    def read(self, container: str, blob: str) -> Iterator[bytes]:
        """See BlobReader."""
        where = f"{_BLOB}{container}/{blob}"
        try:
            client = self._account.get_blob_client(container, blob)
            yield from client.download_blob(max_concurrency=1).chunks()
        except ResourceNotFoundError:
            raise WeightsMissing(f"{where}: there is no such blob") from None
        except AzureError as error:
            # The text alone could hold a signed address.
            raise WeightsAway(f"{where}: cannot be read: {type(error).__name__}") from None


def blob_of(weights: str) -> tuple[str, str] | None:
    """Container and name, where the weights are a blob."""
    if not weights.startswith(_BLOB):
        return None
    container, _, blob = weights.removeprefix(_BLOB).partition("/")
    return container, blob


def file_of(weights: str) -> Path:
    """The file, where the weights are a package's; WeightsMissing. Nothing of it is imported."""
    package, _, path = weights.removeprefix(_PACKAGE).partition("/")
    found: Any = importlib.util.find_spec(package)
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place).resolve()
        file = (folder / path).resolve()
        if file.is_relative_to(folder) and file.is_file():
            return file
    raise WeightsMissing(f"{weights}: the package is not installed, or has no such file")
