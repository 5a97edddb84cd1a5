"""Read and decode all blobs with one prefix."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from contract.errors import ContractError
from gateway.storage.blobs import Blobs, ListedBlob

T = TypeVar("T")

_READS_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


class DecodedBlobs(Generic[T]):
    """Reads and decodes the blobs with one prefix, a blob again only if its ETag has changed."""

    def __init__(
        self, blobs: Blobs, prefix: str, decode: Callable[[ListedBlob, bytes], T], limit: int
    ) -> None:
        """Read at most `limit` blobs, in the order of their names.

        `decode` raises ContractError or ValueError if the content of a blob is not valid.
        """
        self._blobs = blobs
        self._prefix = prefix
        self._decode = decode
        self._limit = limit
        self._known: dict[str, tuple[str, T | None]] = {}

    async def read(
        self, is_wanted: Callable[[ListedBlob], bool] = lambda _: True
    ) -> list[tuple[ListedBlob, T]]:
        """Return the blobs for which `is_wanted` returns true, with their decoded content.

        Blobs that cannot be decoded are left out. Raises Unavailable if the blob storage fails.
        """
        listed: list[ListedBlob] = []
        async for blob in self._blobs.list(self._prefix):
            if is_wanted(blob):
                listed.append(blob)
            if len(listed) == self._limit:
                break
        names = {blob.name for blob in listed}
        self._known = {name: found for name, found in self._known.items() if name in names}
        changed = [
            blob for blob in listed if self._known.get(blob.name, ("", None))[0] != blob.etag
        ]
        for start in range(0, len(changed), _READS_AT_ONCE):
            await asyncio.gather(*map(self._read, changed[start : start + _READS_AT_ONCE]))
        found = ((blob, self._known.get(blob.name)) for blob in listed)
        return [(blob, each[1]) for blob, each in found if each is not None and each[1] is not None]

    async def _read(self, blob: ListedBlob) -> None:
        found = await self._blobs.read(blob.name)
        if found is None:
            return
        try:
            value = self._decode(blob, found.data)
        except (ContractError, ValueError) as error:
            # It is not read again until it changes, so this is logged once.
            _log.warning("the blob %.200s cannot be read: %s", blob.name, error)
            value = None
        # The blob may have changed after it was listed. Then the next call reads it again.
        self._known[blob.name] = (blob.etag, value)
