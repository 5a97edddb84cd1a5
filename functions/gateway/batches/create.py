"""Create batches, and cancel them.

    store the lines of the request ──▶ write the spec ──▶ start the orchestration ──▶ answer

If the process dies before the orchestration has started, no caller knows the batch's id, and
nothing runs. With an Idempotency-Key, a repeat of the request then goes on with the same id.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from contract.catalogue import Catalogue, ModelEntry
from contract.messages import Json, format_time
from contract.names import ORCHESTRATOR_BATCH, batch_instance
from contract.queues import LONGEST_BATCH_SECONDS
from gateway import problems
from gateway.batches.ids import new_batch_id
from gateway.batches.intake import (
    FILE_TOO_LARGE,
    JSONL,
    MAX_FILE_BYTES,
    LineIntake,
    UnreadableFile,
    refuse_other_formats,
)
from gateway.batches.model import BatchSpec, LineProblem
from gateway.batches.resource import line_errors
from gateway.batches.store import BatchStore, input_blob
from gateway.batches.wake import BatchWaker
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.json_text import encode_json, parse_json
from gateway.openai.calls import parse_metadata
from gateway.problems import HttpProblem, invalid_input, malformed
from gateway.storage.blobs import Blobs, SmallBlob
from gateway.storage.payloads import PayloadStore
from gateway.storage.uploads import upload_blob_of, upload_expiry
from gateway.submission.create import JobCreator
from gateway.submission.idempotency import (
    IdempotencyClaim,
    claim_blob,
    decode_claim,
    fingerprint,
)
from gateway.submission.parse import (
    check_coding,
    find_model,
    names_version,
    parse_label,
    parse_options,
    refuse_unknown,
)

MAX_ITEMS: Final = 1_000
"""How many lines the body of a request may have. A file may have more."""

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""The largest size of the body of a request in bytes."""

DEFAULT_SECONDS: Final = 24 * 3600
"""How many seconds after its creation a batch expires if the caller does not say it."""

MAX_BATCHES: Final = 5_000
"""How many batches a tenant may have, with those that have ended and are not deleted yet."""

_COUNTED_FOR: Final = timedelta(seconds=30)
_RETRY_SECONDS: Final = 60
_HEAD_BYTES: Final = 64
_MEMBERS: Final = frozenset(
    {"deadline_seconds", "file", "items", "label", "metadata", "model", "parameters", "webhook"}
)
_MAX_ROUNDS: Final = 5
_MAX_UPLOAD_ID: Final = 200


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A request for a batch: its spec, and its lines unless these are in an upload or a file.

    `digest` is the SHA-256 of the request in hexadecimal digits.
    """

    spec: BatchSpec
    items: list[bytes] | None
    upload: str | None
    digest: str

    def with_id(self, batch_id: str) -> "NewBatch":
        """Return the same request with another id."""
        blob = self.spec.blob if self.items is None else input_blob(batch_id)
        return replace(self, spec=replace(self.spec, id=batch_id, blob=blob))


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """A batch that was created. It is a replay if an earlier request with the same key did."""

    spec: BatchSpec
    is_replay: bool


def parse_batch(
    body: bytes, catalogue: Catalogue, tenant: str, traceparent: str, now: datetime
) -> NewBatch:
    """Return the batch that the body of a request asks for. Raises HttpProblem."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise malformed(
            'the body must be a JSON object such as {"model": …, "file": {"upload": …}} or '
            '{"model": …, "items": […]}'
        )
    refuse_unknown("", value, _MEMBERS)
    name = value.get("model")
    if not isinstance(name, str):
        raise malformed("model: expected the name of a model")
    model = find_model(catalogue, name)
    if ("file" in value) == ("items" in value):
        raise malformed("expected exactly one of the members file and items")
    batch_id = new_batch_id(now)
    seconds = _parse_deadline(value.get("deadline_seconds"))
    spec = BatchSpec(
        batch_id,
        tenant,
        name,
        format_time(now),
        format_time(now + timedelta(seconds=seconds)),
        input_blob(batch_id),
        label=parse_label(value),
        metadata=parse_metadata(value.get("metadata")) or {},
        parameters=_parse_parameters(model, value.get("parameters")),
        webhook_url=_parse_webhook(value.get("webhook")),
        traceparent=traceparent,
        is_pinned=names_version(name),
    )
    digest = hashlib.sha256(body).hexdigest()
    if "file" in value:
        return NewBatch(spec, None, _parse_file(value["file"]), digest)
    return NewBatch(spec, _parse_items(value["items"]), None, digest)


def _parse_items(items: Json) -> list[bytes]:
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        raise malformed(
            f"items: expected a list of 1 to {MAX_ITEMS} lines; send more as a file (POST "
            '/v1/uploads with {"purpose": "batch"})'
        )
    try:
        return [encode_json(item) for item in items]
    except ValueError:
        raise malformed("items: a text has half of a surrogate pair") from None


def _parse_file(file: Json) -> str:
    is_object = isinstance(file, dict) and set(file) == {"upload"}
    if not is_object or not isinstance(file["upload"], str):
        raise malformed('file: expected {"upload": …} with the id of an upload')
    if len(file["upload"]) > _MAX_UPLOAD_ID:
        raise invalid_input("file.upload: expected an id from POST /v1/uploads")
    return str(file["upload"])


def _parse_deadline(given: Json) -> int:
    if given is None:
        return DEFAULT_SECONDS
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    # JSON Schema counts 60.0 as a whole number.
    if not is_number or not 1 <= given <= LONGEST_BATCH_SECONDS or given != int(given):
        raise malformed(
            f"deadline_seconds: expected a whole number from 1 to {LONGEST_BATCH_SECONDS}"
        )
    return int(given)


def _parse_parameters(model: ModelEntry, given: Json) -> dict[str, Json]:
    if not isinstance(given, dict | None):
        raise malformed("parameters: expected a JSON object")
    return parse_options(model, {"parameters": given})[0]


def _parse_webhook(given: Json) -> str | None:
    if given is None:
        return None
    is_object = isinstance(given, dict) and set(given) == {"url"}
    if not is_object or not isinstance(given["url"], str):
        raise malformed('webhook: expected {"url": …}')
    return str(given["url"])


def invalid_batch(found: list[LineProblem]) -> HttpProblem:
    """Return the problem `invalid-batch`, which lists the refused lines."""
    first = found[0]
    named = f" ({first.custom_id!r})" if first.custom_id else ""
    where = f"line {first.line}{named}: " if first.line else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return HttpProblem(
        problems.INVALID_BATCH, f"{where}{first.message}{more}", errors=line_errors(found)
    )


class Batches:
    """Creates, finds and cancels batches. Each method raises Unavailable if a service fails."""

    def __init__(  # noqa: PLR0913, PLR0917 - the components that it needs
        self,
        store: BatchStore,
        blobs: Blobs,
        payloads: PayloadStore,
        creator: JobCreator,
        intake: LineIntake,
        waker: BatchWaker,
        clock: Clock,
        claim_lifetime: timedelta,
    ) -> None:
        self.store = store
        self._blobs = blobs
        self._payloads = payloads
        self._creator = creator
        self._intake = intake
        self._waker = waker
        self._clock = clock
        self._claim_lifetime = claim_lifetime
        self._counts: dict[str, tuple[int, datetime]] = {}

    async def submit(self, durable: Durable, new: NewBatch, key: str | None) -> SubmittedBatch:
        """Create the batch of a request, once for each key. Raises HttpProblem if it is refused."""
        if key is None:
            new = await self._check(new)
            await self.create(durable, new.spec)
            return SubmittedBatch(new.spec, is_replay=False)
        name, is_checked = claim_blob(new.spec.tenant, key), False
        own = fingerprint(new.spec.model, new.digest, {"batch": True})
        for _ in range(_MAX_ROUNDS):
            blob = await self._blobs.read(name)
            claim = self._read_claim(blob, own)
            if claim is not None:
                if (known := await self.store.spec(claim.job_id)) is not None:
                    # The first request may have died before the start.
                    if await durable.status(batch_instance(known.id)) is None:
                        await self.create(durable, known)
                    return SubmittedBatch(known, is_replay=True)
                new = new.with_id(claim.job_id)  # the first request has died, or goes on as this
            if not is_checked:
                new, is_checked = await self._check(new), True
            if claim is None:
                data = IdempotencyClaim(new.spec.id, own, self._clock()).encode()
                if blob is None:
                    etag = await self._blobs.create(name, data)
                else:
                    etag = await self._blobs.replace(name, data, blob.etag)
                if etag is None:
                    continue
            await self.create(durable, new.spec)
            return SubmittedBatch(await self.store.spec(new.spec.id) or new.spec, is_replay=False)
        raise Unavailable("blobs", "too many requests have the same Idempotency-Key")

    async def create(self, durable: Durable, spec: BatchSpec) -> None:
        """Create a batch, whose spec was checked, unless there is one with this id."""
        await self.store.create(spec)
        await durable.start(batch_instance(spec.id), spec.id, ORCHESTRATOR_BATCH)
        await self.store.list_for_owner(spec)

    async def cancel(self, durable: Durable, batch_id: str) -> None:
        """Cancel a batch, whose orchestration does the rest."""
        await self.store.mark_cancelled(batch_id)
        self._waker.wake(durable, batch_id, at_once=True)

    async def check_count(self, tenant: str) -> None:
        """Count one more batch of a tenant. Raises the problem `too-many-batches`."""
        now = self._clock()
        count, counted_at = self._counts.get(tenant, (0, None))
        if counted_at is None or now - counted_at > _COUNTED_FOR:
            count, counted_at = len(await self.store.ids(tenant)), now
            self._counts = {
                each: found for each, found in self._counts.items() if now - found[1] < _COUNTED_FOR
            }
        if count >= MAX_BATCHES:
            raise HttpProblem(
                problems.TOO_MANY_BATCHES,
                f"you have {MAX_BATCHES} batches, the most that are kept; those that have ended "
                "are deleted after their retention",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )
        self._counts[tenant] = count + 1, counted_at

    def _read_claim(self, blob: SmallBlob | None, own: str) -> IdempotencyClaim | None:
        """Return a valid claim. Raises HttpProblem if it is that of a different request."""
        claim = decode_claim(blob.data) if blob else None
        if claim is None or self._clock() - claim.created_at >= self._claim_lifetime:
            return None
        if claim.fingerprint != own:
            raise HttpProblem(
                problems.IDEMPOTENCY_MISMATCH,
                "the Idempotency-Key was first sent with a different request; use a new key",
            )
        return claim

    async def _check(self, new: NewBatch) -> NewBatch:
        """Check what must be looked up, and store the items. Raises HttpProblem."""
        spec = new.spec
        await self.check_count(spec.tenant)
        if spec.webhook_url is not None:
            await self._creator.check_webhook(spec.webhook_url, spec.tenant)
        if new.upload is not None:
            blob, etag = await self._find_upload(spec.tenant, new.upload)
            return replace(new, spec=replace(spec, blob=blob, etag=etag))
        if new.items is None:
            return new
        if found := await self._intake.check_items(spec, new.items):
            raise invalid_batch(found)
        await self._payloads.put(spec.blob, b"\n".join(new.items), JSONL)
        return new

    async def _find_upload(self, tenant: str, upload_id: str) -> tuple[str, str]:
        """Return the blob of an upload and its ETag. Raises HttpProblem if it is of no use."""
        expires_at, blob = upload_expiry(upload_id), upload_blob_of(upload_id, tenant)
        is_valid = expires_at is not None and self._clock() < expires_at
        found = await self._blobs.look(blob, _HEAD_BYTES) if is_valid else None
        if found is None:
            raise invalid_input(
                f"file.upload: there is no upload {upload_id[:100]!r}, because nothing was sent to "
                "its URL or the upload has expired; create a new upload with POST /v1/uploads"
            )
        check_coding(found.content_encoding)
        if found.size_bytes > MAX_FILE_BYTES:
            raise HttpProblem(
                problems.PAYLOAD_TOO_LARGE, FILE_TOO_LARGE, limit_bytes=MAX_FILE_BYTES
            )
        try:
            refuse_other_formats(found.head)
        except UnreadableFile as error:
            raise invalid_batch([error.problem]) from None
        return blob, found.etag
