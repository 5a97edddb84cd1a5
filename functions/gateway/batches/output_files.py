"""The output of batches of the OpenAI API as files, while it grows and after.

The id of a file is made from that of its batch, so nothing is stored beside the output itself.
"""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from gateway.batches.ids import is_batch_id
from gateway.batches.store import BatchStore, errors_blob, results_blob
from gateway.storage.blobs import Blobs
from gateway.storage.files import StoredFile
from gateway.storage.payloads import PIECE_BYTES

PURPOSE: Final = "batch_output"

_ID: Final = re.compile("file-([0-9a-f]{32})-(output|errors)")


def output_file(batch_id: str, kind: str) -> str:
    """Return the id of the file with a batch's output; `kind` is `output` or `errors`."""
    return f"file-{batch_id.replace('-', '')}-{kind}"


class OutputFiles:
    """The files of all batches, of which a tenant sees its own."""

    def __init__(self, store: BatchStore, blobs: Blobs, lifetime: timedelta) -> None:
        """Show each file for `lifetime` after the batch's deadline."""
        self._store = store
        self._blobs = blobs
        self._lifetime = lifetime

    async def ids(self, tenant: str) -> list[str]:
        """Return the ids of all files that the tenant may have, of which some do not exist."""
        batches = await self._store.ids(tenant, is_openai=True)
        return [output_file(each, kind) for each in batches for kind in ("output", "errors")]

    async def find(self, tenant: str, file_id: str) -> StoredFile | None:
        """Return a file of the tenant as large as it is now; None if it does not exist."""
        if (found := _ID.fullmatch(file_id)) is None:
            return None
        batch_id, kind = str(UUID(found[1])), found[2]
        spec = await self._store.spec(batch_id) if is_batch_id(batch_id) else None
        if spec is None or spec.tenant != tenant or spec.operation is None:
            return None
        state, _ = await self._store.state(batch_id)
        size_bytes = state.results_bytes if kind == "output" else state.errors_bytes
        if not size_bytes:
            return None
        return StoredFile(
            file_id,
            f"{batch_id}_{kind}.jsonl",
            PURPOSE,
            size_bytes,
            None,
            int(datetime.fromisoformat(spec.created_at).timestamp()),
            int((spec.deadline_at + self._lifetime).timestamp()),
        )

    async def content(self, stored: StoredFile) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces, as much as was there when it was found."""
        found = _ID.fullmatch(stored.id)
        assert found is not None
        batch_id = str(UUID(found[1]))
        blob = results_blob(batch_id) if found[2] == "output" else errors_blob(batch_id)
        for start in range(0, stored.size_bytes, PIECE_BYTES):
            size_bytes = min(PIECE_BYTES, stored.size_bytes - start)
            yield await self._blobs.read_from(blob, start, size_bytes)
