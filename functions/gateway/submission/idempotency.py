"""Idempotency keys: repeated requests of a tenant with the same key create only one job.

The header follows the IETF draft "The Idempotency-Key HTTP Header Field" with one difference. While
the first request is in progress, a repeated request does not get 409, but waits for the same job.

The first request creates a blob, which is called the idempotency claim of the key. The claim
contains a job id, and the version of the model that runs the job. Then the request starts the job
with this id. All other requests find the claim and wait for the job.

A job must not be started twice. Durable Functions refuses to start an instance that is running, but
replaces an instance that has ended. Therefore:

- A request starts the job only if it has just written the claim, and only within FRESH_SECONDS.
- The outcome of such a job is recorded in a blob, not in the input of the job's orchestration,
  because a second start of the orchestration would replace the input.
- If a request finds a claim whose job has no instance, the request waits WATCH_SECONDS for the
  instance. This time is much longer than FRESH_SECONDS. If the instance does not appear, the
  request that wrote the claim has died or was too slow. The waiting request then writes the claim
  again and starts the job with the same id. The waiting request uses If-Match, so that writing the
  claim succeeds only if the claim has not changed.

The clocks of different machines are never compared. Each process measures its own durations, and
the ETag decides which request writes the claim first.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from uuid_utils import uuid7

from contract.catalogue import FIRST_VERSION, split_name
from contract.errors import MalformedMessage
from contract.messages import Fields, Json, PayloadRef, fits_inline
from contract.names import input_blob
from gateway import problems
from gateway.durable import Durable, InstanceSnapshot
from gateway.errors import Unavailable
from gateway.problems import HttpProblem
from gateway.storage.blobs import SmallBlob
from gateway.submission.create import JobCreator, PreparedJob, SubmittedJob, gather_all
from gateway.submission.parse import NewJob, SubmittedInput

CLAIMS: Final = "claims/"
"""The prefix of the names of blobs that contain idempotency claims."""

LIFETIME_HOURS: Final = 24
FRESH_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 4.0
_FIRST_PAUSE_SECONDS: Final = 0.025
_LONGEST_PAUSE_SECONDS: Final = 0.5

_MAX_ROUNDS: Final = 5


def claim_blob(tenant: str, key: str) -> str:
    """Return the name of the blob that stores the claim of a tenant's idempotency key."""
    # Because of the length, "a" + "bc" and "ab" + "c" have different names.
    text = f"{len(tenant)}:{tenant}:{key}".encode("utf-8", "replace")
    return f"{CLAIMS}{hashlib.sha256(text).hexdigest()}"


def fingerprint(model: str, sha256: str, options: Mapping[str, object]) -> str:
    """Return a digest of a request, by which a different request with the same key is refused.

    `sha256` is the digest of the input, in hexadecimal digits.
    """
    parts = {
        **options,
        "method": "POST",  # of all routes that accept a key
        "model": model,
        "sha256": sha256,
    }
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint_of(job: NewJob) -> str:
    first = job.inputs[None]
    options: dict[str, object] = {
        **_describe(first),
        "parameters": job.parameters,
        "deadline_seconds": job.deadline_seconds,
        "webhook_url": job.webhook_url,
        "priority": job.priority,
    }
    # The claims of earlier versions, which had no streams, labels and named inputs, must still
    # match their requests.
    if job.stream:
        options["stream"] = True
    if job.label is not None:
        options["label"] = job.label
    if job.operation is not None:
        options["operation"] = job.operation
    if named := {name: each for name, each in job.inputs.items() if name is not None}:
        options["inputs"] = {
            name: {**_describe(each), "sha256": hashlib.sha256(each.data).hexdigest()}
            for name, each in named.items()
        }
    digest = first.stored.sha256 if first.stored else hashlib.sha256(first.data).hexdigest()
    return fingerprint(_name_of(job), str(digest), options)


def _describe(submitted: SubmittedInput) -> dict[str, object]:
    url = submitted.url and dataclasses.asdict(submitted.url)
    return {"media_type": submitted.media_type, "url": url, "upload": submitted.upload}


def _name_of(new_job: NewJob) -> str:
    """Return the model's name, followed by the version if the caller's request names a version."""
    model = new_job.model
    return f"{model.model_name}:{model.version}" if new_job.is_pinned else model.name


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The blob that assigns a job, and the version that runs it, to an idempotency key."""

    job_id: str
    fingerprint: str
    created_at: datetime
    version: str = FIRST_VERSION

    def encode(self) -> bytes:
        """Return the idempotency claim as JSON bytes."""
        value: dict[str, Json] = {
            "job_id": self.job_id,
            "fingerprint": self.fingerprint,
            "created_at": self.created_at.isoformat(),
        }
        if self.version != FIRST_VERSION:
            value["version"] = self.version
        return json.dumps(value).encode()


def decode_claim(data: bytes) -> IdempotencyClaim | None:
    """Read an idempotency claim; None if the content is none, so that it may be replaced."""
    try:
        fields = Fields(json.loads(data))
        return IdempotencyClaim(
            fields.text("job_id"),
            fields.text("fingerprint"),
            fields.time("created_at"),
            # The claims of earlier gateways, whose models had one version, have no member version.
            fields.optional_text("version") or FIRST_VERSION,
        )
    except (MalformedMessage, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _KeyedJob:
    """A new job, the blob of its key's claim, and the digest of its request."""

    new_job: NewJob
    claim_blob: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class IdempotencyKeys:
    """Creates the jobs of requests with an Idempotency-Key, once for each key."""

    creator: JobCreator
    lifetime: timedelta
    """How long a claim is valid. If it outlived its job, a repeat would run the deleted job."""

    async def create(
        self, durable: Durable, key: str, new_job: NewJob, wait_seconds: float
    ) -> SubmittedJob:
        """Create or find the job of the key, and wait for its end. Raises for other requests."""
        first = new_job.inputs[None]
        if first.pieces is not None:  # the fingerprint contains the digest of the whole input
            await self.creator.store_pieces(first)
        keyed = _KeyedJob(new_job, claim_blob(new_job.tenant, key), _fingerprint_of(new_job))
        try:
            return await self._create_one(durable, keyed, wait_seconds)
        except HttpProblem:
            await self._discard_stored(new_job)
            raise

    async def create_all(
        self, durable: Durable, key: str, new_jobs: Sequence[NewJob], wait_seconds: float
    ) -> list[SubmittedJob]:
        """Do the same as `create` for several jobs of one request."""
        first = new_jobs[0]
        fingerprints = "\n".join(_fingerprint_of(new_job) for new_job in new_jobs)
        digest = hashlib.sha256(fingerprints.encode()).hexdigest()
        common = fingerprint(_name_of(first), digest, {"jobs": len(new_jobs)})
        keyed = _KeyedJob(first, claim_blob(first.tenant, key), common)
        if len(new_jobs) == 1:
            return [await self._create_one(durable, keyed, wait_seconds)]
        # The first job's claim decides whether the key is free, so it is created first. The names
        # of the other claims contain its id and a line break, which a key cannot contain.
        created = await self._create_one(durable, keyed, 0)
        others = [
            _KeyedJob(new_job, claim_blob(new_job.tenant, f"{created.job_id}\n{number}"), common)
            for number, new_job in enumerate(new_jobs[1:], 1)
        ]
        return await gather_all(
            [
                self.creator.wait(durable, created, wait_seconds),
                *(self._create_one(durable, other, wait_seconds) for other in others),
            ]
        )

    async def _create_one(
        self, durable: Durable, keyed: _KeyedJob, wait_seconds: float
    ) -> SubmittedJob:
        """Create the key's job unless it exists, and wait up to `wait_seconds` for its end."""
        # A job with small inputs is cheap to prepare, so its claim is written without reading.
        limit_bytes = self.creator.settings.inline_limit_bytes
        skips_look = fits_inline(keyed.new_job.size_bytes, limit_bytes)
        for _ in range(_MAX_ROUNDS):
            blob = None if skips_look else await self.creator.blobs.read(keyed.claim_blob)
            claim = decode_claim(blob.data) if blob else None
            now = self.creator.clock()
            if claim is not None and now - claim.created_at < self.lifetime:
                if claim.fingerprint != keyed.fingerprint:
                    raise HttpProblem(
                        problems.IDEMPOTENCY_MISMATCH,
                        "the Idempotency-Key was first sent with a different request; use a new "
                        "key",
                    )
                instance = await self._watch(durable, claim.job_id)
                if instance is not None:
                    keyed.new_job.drop_data()
                    await self._discard_stored(keyed.new_job)
                    return await self._follow(durable, claim.job_id, instance, wait_seconds)
            else:
                claim = None
            try:
                created = await self._claim_and_start(durable, keyed, claim, blob, wait_seconds)
            except HttpProblem:
                # A new job would be refused, but an earlier request with this key may exist.
                if not skips_look:
                    raise
                created = None
            if created is not None:
                return created
            skips_look = False
        raise Unavailable(
            "blobs",
            "too many requests with the same Idempotency-Key were sent at the same time; repeat "
            "the request",
        )

    async def _claim_and_start(
        self,
        durable: Durable,
        keyed: _KeyedJob,
        claim: IdempotencyClaim | None,
        blob: SmallBlob | None,
        wait_seconds: float,
    ) -> SubmittedJob | None:
        """Write the idempotency claim of a key, then start the job and wait for its end.

        Returns None if another request wrote the claim first, or if writing took longer than
        FRESH_SECONDS. `claim` is an existing claim whose job was not started, in the blob `blob`.
        """
        job_id = claim.job_id if claim else str(uuid7())
        created_at = claim.created_at if claim else self.creator.clock()
        new_job = keyed.new_job if claim is None else self._pin(keyed.new_job, claim.version)
        (job,) = await self.creator.prepare_all([new_job], [job_id])
        _, version = split_name(job.request.model)
        data = IdempotencyClaim(job_id, keyed.fingerprint, created_at, version).encode()
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        if blob is None:
            etag = await self.creator.blobs.create(keyed.claim_blob, data)
        else:
            etag = await self.creator.blobs.replace(keyed.claim_blob, data, blob.etag)
        if etag is None:
            if claim is None:
                await self._discard(job)
            return None
        if loop.time() - begun_at > FRESH_SECONDS:
            return None
        keyed.new_job.drop_data()
        record = await self.creator.start_and_wait(durable, job, wait_seconds, is_only_start=False)
        return SubmittedJob(job_id, record, is_replay=claim is not None)

    def _pin(self, new_job: NewJob, version: str) -> NewJob:
        """Return the job with the claim's version, to whose queue its message may have gone."""
        entry = self.creator.catalogue.versions(new_job.model).get(version)
        return (
            new_job if entry is None else dataclasses.replace(new_job, model=entry, is_pinned=True)
        )

    async def _discard(self, job: PreparedJob) -> None:
        """Delete the stored inputs of a job that will not be started, and free its place."""
        self.creator.limits.drop(job.new_job.tenant, [job.job_id])
        payloads = [(None, job.request.input), *job.request.inputs.items()]
        for name, payload in payloads:
            if isinstance(payload, PayloadRef):
                # If the deletion fails, the blob remains although no job refers to it.
                with contextlib.suppress(Unavailable):
                    await self.creator.blobs.delete(input_blob(job.job_id, name))

    async def _discard_stored(self, new_job: NewJob) -> None:
        """Delete the input that was stored as it arrived, because no job uses it."""
        if (stored := new_job.inputs[None].stored) is not None:
            with contextlib.suppress(Unavailable):
                await self.creator.blobs.delete(stored.blob)

    async def _watch(self, durable: Durable, job_id: str) -> InstanceSnapshot | None:
        """Wait up to WATCH_SECONDS for the job's orchestration instance; None without one."""
        loop = asyncio.get_running_loop()
        end, pause_seconds = loop.time() + WATCH_SECONDS, _FIRST_PAUSE_SECONDS
        while True:
            instance = await durable.status(job_id)
            left = end - loop.time()
            if instance is not None or left <= 0:
                return instance
            await asyncio.sleep(min(pause_seconds, left))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def _follow(
        self, durable: Durable, job_id: str, instance: InstanceSnapshot, wait_seconds: float
    ) -> SubmittedJob:
        found = await self.creator.jobs.record_of(job_id, instance)
        if found is None:
            raise Unavailable(
                "durable",
                f"an orchestration with the id {job_id} exists, but it is not the orchestration of "
                "a job",
            )
        replayed = SubmittedJob(job_id, found, is_replay=True)
        return await self.creator.wait(durable, replayed, wait_seconds)
