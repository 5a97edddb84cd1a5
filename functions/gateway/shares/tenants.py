"""The weights and limits of tenants, which operators change while the gateway runs.

One blob has the settings of all tenants, and is only written with If-Match. It also has the last
change, so a change is never without its entry in the audit log: the next change appends this entry
to the log again, and a reader counts each entry once.
"""

import asyncio
import contextlib
import json
import logging
import math
import secrets
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contract.messages import Json, format_time
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.keys import owner_of
from gateway.storage.blobs import Blobs, SmallBlob
from gateway.storage.logs import LogTail

SETTINGS_BLOB: Final = "tenants/settings"
AUDIT: Final = "tenants/audit/"
"""The prefix of the audit logs, one for each month."""

EVERY_TENANT: Final = "*"
"""The name under which the settings are stored that apply to tenants without own ones."""

REFRESH: Final = timedelta(seconds=2)
"""After what time settings that are used are read again."""

IDLE: Final = timedelta(seconds=30)
"""After what time without a read a request waits for the next one."""

MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 1000.0
MAX_QUEUED: Final = 20_000
MAX_RUNNING: Final = 100_000
MAX_GPU_SECONDS: Final = 1_000_000_000

_ATTEMPTS: Final = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use. A limit that is None does not exist."""

    weight: float = 1.0
    max_queued: int | None = None
    """How many jobs of the tenant may exist that have not ended."""
    max_running: int | None = None
    """How many jobs of the tenant may be in a model's queue or run."""
    gpu_seconds_a_day: float | None = None
    """How many seconds on devices the tenant may use in a day of UTC."""


Fields = Mapping[str, Json]
"""The members of a tenant's settings that were given. The others are those of `*`."""

Change = Mapping[str, Json]
"""An entry of the audit log: `id`, `at`, `by`, `tenant`, and the Fields `before` and `after`."""

_LIMITS: Final = {
    "weight": (MIN_WEIGHT, MAX_WEIGHT),
    "max_queued": (0, MAX_QUEUED),
    "max_running": (1, MAX_RUNNING),
    "gpu_seconds_a_day": (0, MAX_GPU_SECONDS),
}


def parse_fields(value: Json) -> dict[str, Json]:
    """Return the members of a tenant's settings. Raises ValueError if one is wrong."""
    if not isinstance(value, dict) or not _LIMITS.keys() >= value.keys():
        raise ValueError(f"expected an object with only these members: {', '.join(_LIMITS)}")
    # JSON Schema counts 20.0 as a whole number.
    fields = {
        name: int(given)
        if name.startswith("max_") and isinstance(given, float) and given.is_integer()
        else given
        for name, given in value.items()
    }
    for name, given in fields.items():
        least, most = _LIMITS[name]
        is_whole = name.startswith("max_")
        if given is None and name != "weight":
            continue
        if (
            isinstance(given, bool)
            or not isinstance(given, int if is_whole else int | float)
            or not math.isfinite(given)
            or not least <= given <= most
        ):
            kind, rest = ("whole number", " or null") if is_whole else ("number", "")
            rest = " or null" if name == "gpu_seconds_a_day" else rest
            raise ValueError(f"{name}: expected a {kind} from {least} to {most}{rest}")
    return fields


@dataclass(frozen=True, slots=True)
class _State:
    """The content of the blob."""

    tenants: dict[str, dict[str, Json]]
    last: Change | None

    def settings(self, tenant: str) -> TenantLimits:
        given = {**self.tenants.get(EVERY_TENANT, {}), **self.tenants.get(tenant, {})}
        return TenantLimits(**given)

    def encode(self) -> bytes:
        value = {"tenants": self.tenants, "last": self.last}
        return json.dumps(value, separators=(",", ":")).encode()


def _decode(found: SmallBlob | None) -> _State:
    """Read the content of the blob. Raises Unavailable if it is not what a gateway has written."""
    if found is None:
        return _State({}, None)
    try:
        value = json.loads(found.data)
        tenants = {name: parse_fields(fields) for name, fields in value["tenants"].items()}
        return _State(tenants, value["last"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable("blobs", f"{SETTINGS_BLOB} is malformed: {error!r}") from None


class TenantStore:
    """Knows the settings of all tenants, and changes them.

    Settings are read again every REFRESH in the background, while they are used.
    """

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._etag: str | None = None
        self._default = TenantLimits()
        self._by_owner: dict[str, TenantLimits] = {}
        self._read_at: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self.is_loaded = False
        """Whether the settings were read once."""

    def settings(self, tenant: str) -> TenantLimits:
        """Return the settings of a tenant, at most about REFRESH old."""
        return self.settings_of(owner_of(tenant))

    def settings_of(self, owner: str) -> TenantLimits:
        """Do the same for the digest of a tenant's name."""
        now = self._clock()
        if self._read_at is None or abs(now - self._read_at) >= REFRESH:
            self._start_read(now)
        return self._by_owner.get(owner, self._default)

    def weight(self, owner: str) -> float:
        """Return a tenant's weight."""
        return self.settings_of(owner).weight

    def running_limit(self, owner: str) -> int | None:
        """Return how many of a tenant's jobs may be in a model's queue or run."""
        return self.settings_of(owner).max_running

    async def load(self) -> None:
        """Wait for the first read, and after IDLE. If it fails, the last settings apply."""
        now = self._clock()
        is_idle = self._read_at is None or abs(now - self._read_at) >= IDLE
        if is_idle:
            self._start_read(now)
        if (is_idle or not self.is_loaded) and self._reading is not None:
            await asyncio.shield(self._reading)

    async def read_all(self) -> dict[str, dict[str, Json]]:
        """Return the given settings of all tenants that have any. Raises Unavailable."""
        found = await self._blobs.read(SETTINGS_BLOB)
        state = _decode(found)
        self._use(state, None if found is None else found.etag)
        return state.tenants

    async def change(self, tenant: str, fields: Fields | None, by: str) -> None:
        """Replace the given settings of a tenant, or delete them if None. Raises Unavailable.

        `by` is the name of the caller for the audit log.
        """
        for _ in range(_ATTEMPTS):
            found = await self._blobs.read(SETTINGS_BLOB)
            state = _decode(found)
            before, after = state.tenants.get(tenant), None if fields is None else dict(fields)
            if before == after:
                return
            if state.last is not None:
                await self._append(state.last)
            tenants = {**state.tenants}
            if after is None:
                del tenants[tenant]
            else:
                tenants[tenant] = after
            change = {
                "id": secrets.token_hex(8),
                "at": format_time(self._clock()),
                "by": by,
                "tenant": tenant,
                "before": before,
                "after": after,
            }
            changed = _State(tenants, change)
            etag = await self._write(changed.encode(), found)
            if etag is None:
                continue
            self._use(changed, etag)
            _log.warning("%s changed the tenant %r from %s to %s", by, tenant, before, after)
            with contextlib.suppress(Unavailable):  # the next change appends it
                await self._append(change)
            return
        raise Unavailable("blobs", f"{SETTINGS_BLOB} was changed by others at the same time")

    async def audit(self, limit: int) -> list[Change]:
        """Return the last changes, the newest first. Raises Unavailable."""
        found: dict[str, Change] = {}
        last = _decode(await self._blobs.read(SETTINGS_BLOB)).last
        if last is not None:
            found[last["id"]] = last
        logs = sorted([blob.name async for blob in self._blobs.list(AUDIT)], reverse=True)
        for log in logs:
            tail = LogTail(self._blobs, log)
            lines: list[bytes] = []
            while more := await tail.read():
                lines += more
            for line in reversed(lines):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    found.setdefault(entry["id"], entry)
            if len(found) >= limit:
                break
        newest = sorted(found.values(), key=lambda entry: str(entry["at"]), reverse=True)
        return newest[:limit]

    async def _append(self, change: Change) -> None:
        blob = f"{AUDIT}{change['at'][:7]}"
        await self._blobs.append(blob, json.dumps(change).encode() + b"\n")

    async def _write(self, data: bytes, found: SmallBlob | None) -> str | None:
        if found is None:
            return await self._blobs.create(SETTINGS_BLOB, data)
        return await self._blobs.replace(SETTINGS_BLOB, data, found.etag)

    def _start_read(self, now: datetime) -> None:
        self._read_at = now
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(), context=Context())

    async def _read(self) -> None:
        try:
            found = await self._blobs.read(SETTINGS_BLOB)
            if found is None or found.etag != self._etag:
                self._use(_decode(found), None if found is None else found.etag)
            self.is_loaded = True
        except Unavailable as error:
            _log.warning("the settings of tenants cannot be read; the last ones apply: %s", error)

    def _use(self, state: _State, etag: str | None) -> None:
        self._etag = etag
        self._default = state.settings(EVERY_TENANT)
        self._by_owner = {owner_of(name): state.settings(name) for name in state.tenants}
