"""The blobs of batches. Each method raises Unavailable if the storage fails."""

from collections import OrderedDict
from typing import Final

from gateway.batches.model import BatchSpec, BatchState
from gateway.keys import owner_of
from gateway.storage.blobs import Blobs
from gateway.storage.logs import MAX_READ_BYTES

BATCHES: Final = "batches/"
BATCHES_OF: Final = "batches-of/"
"""The prefixes of the names of the blobs. Those with BATCHES_OF list the batches of a tenant."""

WHOLE: Final = 0
"""Stands for all lines of a batch where the number of a line is expected."""

_OPENAI: Final = ".openai"
"""Ends the names of blobs that list batches of the OpenAI API."""

# More than a page of a list may examine.
_CACHED_SPECS: Final = 1024
_CACHED_STATES: Final = 1024


def state_blob(batch_id: str) -> str:
    """Return the name of the blob that says how far a batch is."""
    return f"{BATCHES}{batch_id}/state"


def input_blob(batch_id: str) -> str:
    """Return the name of the blob with the items of a request."""
    return f"{BATCHES}{batch_id}/input"


def segment_blob(batch_id: str, index: int) -> str:
    """Return the name of the blob with the checked lines of a segment."""
    return f"{BATCHES}{batch_id}/lines/{index:04}"


def ends_blob(batch_id: str, index: int) -> str:
    """Return the name of the append blob with the outcomes of a segment's lines."""
    return f"{BATCHES}{batch_id}/ends/{index:04}"


def results_blob(batch_id: str) -> str:
    """Return the name of the append blob with the results, in the order of the input."""
    return f"{BATCHES}{batch_id}/results"


def errors_blob(batch_id: str) -> str:
    """Return the name of the append blob with the lines that have no result, in order."""
    return f"{BATCHES}{batch_id}/errors"


def owner_prefix(tenant: str) -> str:
    """Return the prefix of the blobs that list a tenant's batches."""
    return f"{BATCHES_OF}{owner_of(tenant)}/"


class BatchStore:
    """Reads and writes the specs and the states of batches."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._specs: OrderedDict[str, BatchSpec] = OrderedDict()
        self._finals: OrderedDict[str, BatchState] = OrderedDict()

    async def create(self, spec: BatchSpec) -> None:
        """Write the spec of a new batch."""
        await self._blobs.create(f"{BATCHES}{spec.id}/spec", spec.encode())

    async def list_for_owner(self, spec: BatchSpec) -> None:
        """Let lists of the tenant's batches show this one."""
        kind = "" if spec.operation is None else _OPENAI
        await self._blobs.create(f"{owner_prefix(spec.tenant)}{spec.id}{kind}", b"")

    async def spec(self, batch_id: str) -> BatchSpec | None:
        """Return the spec of a batch; None if there is no such batch."""
        if (known := self._specs.get(batch_id)) is not None:
            self._specs.move_to_end(batch_id)
            return known
        found = await self._blobs.read(f"{BATCHES}{batch_id}/spec")
        if found is None:
            return None
        spec = self._specs[batch_id] = BatchSpec.decode(found.data)
        if len(self._specs) > _CACHED_SPECS:
            self._specs.popitem(last=False)
        return spec

    async def state(self, batch_id: str) -> tuple[BatchState, str | None]:
        """Return the state of a batch and its ETag, which is None before the first step."""
        found = await self._blobs.read(state_blob(batch_id))
        return (
            (BatchState(), None) if found is None else (BatchState.decode(found.data), found.etag)
        )

    async def shown_state(self, batch_id: str) -> BatchState:
        """Return the state of a batch, to be shown. A final one, which never changes, is cached."""
        if (known := self._finals.get(batch_id)) is not None:
            return known
        state, _ = await self.state(batch_id)
        if state.status.is_final:
            self._finals[batch_id] = state
            if len(self._finals) > _CACHED_STATES:
                self._finals.popitem(last=False)
        return state

    async def write_state(self, batch_id: str, state: BatchState, etag: str | None) -> str | None:
        """Replace the state that has this ETag; return the new ETag, or None if it has another.

        None may also mean that the state was written and the response was lost: read it again.
        """
        name = state_blob(batch_id)
        if etag is None:
            return await self._blobs.create(name, state.encode())
        return await self._blobs.replace(name, state.encode(), etag)

    async def mark_cancelled(self, batch_id: str, number: int = WHOLE) -> None:
        """Record that the batch, or one line of it, must stop."""
        await self._blobs.append(f"{BATCHES}{batch_id}/cancel", b"%d\n" % number)

    async def cancelled(self, batch_id: str) -> frozenset[int]:
        """Return the lines that must stop; with WHOLE, all of the batch must."""
        blob = f"{BATCHES}{batch_id}/cancel"
        return frozenset(map(int, (await self._blobs.read_from(blob, 0, MAX_READ_BYTES)).split()))

    async def is_cancelled(self, batch_id: str) -> bool:
        """Return whether the whole batch must stop."""
        return WHOLE in await self.cancelled(batch_id)

    async def ids(self, tenant: str | None, *, is_openai: bool = False) -> list[str]:
        """Return the ids of a tenant's batches, the newest first; of all tenants if None.

        If `is_openai`, only those of the OpenAI API are returned.
        """
        prefix = BATCHES_OF if tenant is None else owner_prefix(tenant)
        names = await self._blobs.list_names(prefix)
        kind = _OPENAI if is_openai else ""
        found = [name.rpartition("/")[2] for name in names if name.endswith(kind)]
        return sorted((each.removesuffix(_OPENAI) for each in found), reverse=True)
