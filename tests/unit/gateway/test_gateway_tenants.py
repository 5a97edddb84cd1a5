"""Test the settings of tenants: their defaults, live changes, and the audit log."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gateway.errors import Unavailable
from gateway.keys import owner_of
from gateway.shares.tenants import (
    IDLE,
    REFRESH,
    SETTINGS_BLOB,
    TenantLimits,
    TenantStore,
    parse_fields,
)
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run


def make_blobs() -> MemoryBlobs:
    return MemoryBlobs(MemoryPayloads(), ManualClock())


def make_store(blobs: MemoryBlobs) -> TenantStore:
    return TenantStore(blobs, blobs.clock)


def test_own_members_come_before_those_of_all() -> None:
    async def main() -> None:
        store = make_store(make_blobs())
        await store.change("*", {"max_queued": 10, "max_running": 4}, "ops")
        await store.change("acme", {"weight": 2, "max_running": None}, "ops")
        assert store.settings("acme") == TenantLimits(weight=2, max_queued=10)
        assert store.settings("other") == TenantLimits(max_queued=10, max_running=4)
        assert store.weight(owner_of("acme")) == 2
        assert store.running_limit(owner_of("other")) == 4

    run(main())


def test_a_change_is_live_in_other_instances() -> None:
    async def main() -> None:
        blobs = make_blobs()
        store, other = make_store(blobs), make_store(blobs)
        await other.load()
        await store.change("acme", {"weight": 3}, "ops")
        assert other.weight(owner_of("acme")) == 1
        blobs.clock.now += REFRESH
        other.settings("acme")
        await asyncio.sleep(0.01)
        assert other.weight(owner_of("acme")) == 3

    run(main())


def test_the_first_use_waits_for_the_settings() -> None:
    async def main() -> None:
        blobs = make_blobs()
        await make_store(blobs).change("acme", {"weight": 3}, "ops")
        other = make_store(blobs)
        await asyncio.gather(other.load(), other.load())
        assert other.weight(owner_of("acme")) == 3

    run(main())


def test_a_request_after_a_pause_waits_for_them() -> None:
    async def main() -> None:
        blobs = make_blobs()
        store, other = make_store(blobs), make_store(blobs)
        await other.load()
        await store.change("acme", {"weight": 3}, "ops")
        blobs.clock.now += IDLE
        await other.load()
        assert other.weight(owner_of("acme")) == 3

    run(main())


def test_an_unreachable_storage_keeps_the_last() -> None:
    async def main() -> None:
        blobs = make_blobs()
        store = make_store(blobs)
        await store.change("acme", {"weight": 3}, "ops")
        blobs.payloads.is_down = True
        blobs.clock.now += REFRESH
        store.settings("acme")
        await asyncio.sleep(0.01)
        assert store.weight(owner_of("acme")) == 3

    run(main())


def test_changes_at_once_are_all_kept() -> None:
    async def main() -> None:
        blobs = make_blobs()
        names = [f"tenant-{number}" for number in range(8)]
        stores = [make_store(blobs) for _ in names]
        await asyncio.gather(
            *(
                store.change(name, {"weight": 2}, name)
                for store, name in zip(stores, names, strict=True)
            )
        )
        assert sorted(await make_store(blobs).read_all()) == names
        audit = await make_store(blobs).audit(100)
        assert sorted(str(entry["by"]) for entry in audit) == names

    run(main())


def test_a_change_has_its_entry_after_a_kill() -> None:
    async def main() -> None:
        blobs = DyingBlobs(MemoryPayloads(), ManualClock())
        store = make_store(blobs)
        await store.change("acme", {"weight": 3}, "ann")  # its append fails
        blobs.clock.now += timedelta(minutes=1)
        assert [entry["by"] for entry in await store.audit(10)] == ["ann"]
        blobs.is_dying = False
        await store.change("acme", None, "bob")
        audit = await store.audit(10)
        assert [(entry["by"], entry["before"], entry["after"]) for entry in audit] == [
            ("bob", {"weight": 3}, None),
            ("ann", None, {"weight": 3}),
        ]

    run(main())


class DyingBlobs(MemoryBlobs):
    """Blobs that fail to append, as if the process were killed before."""

    is_dying = True

    async def append(self, blob: str, data: bytes) -> int:
        if self.is_dying:
            raise Unavailable("blobs", "switched off")
        return await super().append(blob, data)


def test_the_same_settings_again_change_nothing() -> None:
    async def main() -> None:
        blobs = make_blobs()
        store = make_store(blobs)
        await store.change("acme", {"weight": 3}, "ann")
        await store.change("acme", {"weight": 3}, "bob")
        assert len(await store.audit(10)) == 1

    run(main())


def test_a_malformed_blob_is_not_overwritten() -> None:
    async def main() -> None:
        blobs = make_blobs()
        blobs.put(SETTINGS_BLOB, b'{"tenants": {"acme": {"weight": "2"}}, "last": null}')
        with pytest.raises(Unavailable, match="malformed"):
            await make_store(blobs).change("acme", {"weight": 3}, "ops")

    run(main())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "only these members"),
        ({"size": 1}, "only these members"),
        ({"weight": 0}, "weight: expected a number from 0.01 to 1000"),
        ({"weight": None}, "weight"),
        ({"weight": True}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"max_queued": 1.5}, "max_queued: expected a whole number"),
        ({"max_queued": -1}, "max_queued"),
        ({"max_running": 0}, "max_running: expected a whole number from 1"),
        ({"gpu_seconds_a_day": "60"}, "gpu_seconds_a_day"),
    ],
)
def test_wrong_settings_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_fields(value)


def test_whole_number_may_have_a_fraction_of_zero() -> None:
    fields = parse_fields({"max_queued": 20.0, "weight": 2.5})
    assert fields == {"max_queued": 20, "weight": 2.5}
    assert isinstance(fields["max_queued"], int)
