"""Test the account of the seconds that tenants use on devices."""

import asyncio
from datetime import timedelta

from gateway.keys import owner_of
from gateway.shares.usage import IDLE, REFRESH, TenantUsage, Usage
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run

ACME = owner_of("acme")


def make_blobs() -> MemoryBlobs:
    return MemoryBlobs(MemoryPayloads(), ManualClock())


def make_usage(blobs: MemoryBlobs) -> Usage:
    return Usage(blobs, blobs.clock)


async def today(blobs: MemoryBlobs) -> float:
    """Return the seconds of today that a new process knows."""
    usage = make_usage(blobs)
    await usage.load()
    return usage.used_today(ACME)


def test_instances_add_up_what_all_have_counted() -> None:
    async def main() -> None:
        blobs = make_blobs()
        first, second = make_usage(blobs), make_usage(blobs)
        await second.load()
        first.record(ACME, "resnet18", 1.5)
        second.record(ACME, "noop", 0.25)
        assert first.used_today(ACME) == 1.5
        await first.write()
        await second.write()
        blobs.clock.now += REFRESH
        second.used_today(ACME)
        await asyncio.sleep(0.01)
        assert second.used_today(ACME) == 1.75
        assert await today(blobs) == 1.75

    run(main())


def test_a_request_after_a_pause_reads_the_others() -> None:
    async def main() -> None:
        blobs = make_blobs()
        first, second = make_usage(blobs), make_usage(blobs)
        await second.load()
        first.record(ACME, "noop", 1.5)
        await first.write()
        blobs.clock.now += IDLE
        await second.load()
        assert second.used_today(ACME) == 1.5

    run(main())


def test_a_kill_loses_only_what_is_not_written() -> None:
    async def main() -> None:
        blobs = make_blobs()
        usage = make_usage(blobs)
        usage.record(ACME, "noop", 2.0)
        await usage.write()
        usage.record(ACME, "noop", 4.0)
        assert await today(blobs) == 2.0

    run(main())


def test_a_process_that_ends_writes_the_rest() -> None:
    async def main() -> None:
        blobs = make_blobs()
        usage = make_usage(blobs)
        usage.record(ACME, "noop", 2.0)
        flushing = usage._flushing
        assert flushing is not None
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.wait([flushing])
        assert await today(blobs) == 2.0

    run(main())


def test_a_repeated_write_counts_once() -> None:
    async def main() -> None:
        blobs = LosingBlobs(MemoryPayloads(), ManualClock())
        usage = make_usage(blobs)
        usage.record(ACME, "noop", 2.0)
        await usage.write()
        assert await today(blobs) == 2.0

    run(main())


class LosingBlobs(MemoryBlobs):
    """Blobs that append everything twice, as after a lost response."""

    async def append(self, blob: str, data: bytes) -> int:
        await super().append(blob, data)
        return await super().append(blob, data)


def test_a_failed_write_is_repeated() -> None:
    async def main() -> None:
        blobs = make_blobs()
        usage = make_usage(blobs)
        usage.record(ACME, "noop", 2.0)
        blobs.payloads.is_down = True
        await usage.write()
        usage.record(ACME, "noop", 1.0)
        blobs.payloads.is_down = False
        await usage.write()
        await usage.write()
        assert await today(blobs) == 3.0

    run(main())


def test_each_day_begins_at_midnight_utc() -> None:
    async def main() -> None:
        blobs = make_blobs()
        usage = make_usage(blobs)
        usage.record(ACME, "noop", 2.0)
        await usage.write()
        blobs.clock.now += timedelta(hours=11, minutes=59)
        assert (usage.used_today(ACME), await today(blobs)) == (2.0, 2.0)
        blobs.clock.now += timedelta(minutes=1)
        assert (usage.used_today(ACME), await today(blobs)) == (0.0, 0.0)

    run(main())


def test_the_summary_has_the_last_hour_and_models() -> None:
    async def main() -> None:
        blobs = make_blobs()
        usage = make_usage(blobs)
        usage.note("acme")
        usage.record(ACME, "noop", 2.0)
        blobs.clock.now += timedelta(minutes=59)
        usage.record(ACME, "resnet18", 1.0)
        await usage.write()
        reader = make_usage(blobs)
        models = {
            "noop": TenantUsage(2.0, 2.0, 1, 1),
            "resnet18": TenantUsage(1.0, 1.0, 1, 1),
        }
        assert await reader.summarize() == {ACME: TenantUsage(3.0, 3.0, 2, 2, models)}
        assert reader.name(ACME) == "acme"
        blobs.clock.now += timedelta(minutes=1)
        assert (await reader.summarize())[ACME].hour_seconds == 1.0
        blobs.clock.now += timedelta(hours=26)
        assert await reader.summarize() == {}

    run(main())


def test_an_old_log_is_summed_up_once() -> None:
    async def main() -> None:
        blobs = make_blobs()
        blobs.clock.now -= timedelta(hours=2)
        first, second = make_usage(blobs), make_usage(blobs)
        for usage in (first, second):
            for _ in range(3):
                usage.note("acme")
                usage.record(ACME, "noop", 1.0)
                await usage.write()
        blobs.clock.now += timedelta(hours=3)
        assert await today(blobs) == 6.0
        (log,) = [name for name in blobs.payloads.blobs if not name.endswith(".sum")]
        await blobs.delete(log)
        reader = make_usage(blobs)
        assert (await reader.summarize())[ACME] == TenantUsage(
            0.0, 6.0, 0, 6, {"noop": TenantUsage(0.0, 6.0, 0, 6)}
        )
        assert reader.name(ACME) == "acme"
        assert (await first.summarize())[ACME].day_seconds == 6.0

    run(main())


def test_the_rate_is_that_of_recent_ends() -> None:
    async def main() -> None:
        usage = make_usage(make_blobs())
        assert usage.seconds_per_job(ACME) is None
        for _ in range(10):
            usage.record(ACME, "noop", 2.0)
        assert usage.seconds_per_job(ACME) == 30.0

    run(main())
