"""Test that tenants have exactly as many places as their limit, over several instances."""

import asyncio
import random
from collections.abc import Collection
from datetime import timedelta
from uuid import uuid4

import pytest

from gateway.errors import Unavailable
from gateway.shares.places import GATHER_SECONDS, LOOKED_UP_AFTER, PLACES, Places, Taken
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run

OWNER = "0123456789abcdef"
MINUTE = timedelta(minutes=1)


class SlowBlobs(MemoryBlobs):
    """Blobs whose answers take a while, and may be lost, so that the write is repeated."""

    chance = 0.0
    is_written = 0

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        await asyncio.sleep(random.uniform(0, 0.003))
        self.is_written += 1
        found = await super().replace(blob, data, etag)
        await asyncio.sleep(random.uniform(0, 0.003))
        # The answer was lost, and the repeated request finds another ETag.
        return None if random.random() < self.chance else found


def make_blobs() -> SlowBlobs:
    return SlowBlobs(MemoryPayloads(), ManualClock())


def make_places(blobs: MemoryBlobs, ended: Collection[str] = ()) -> Places:
    async def has_ended(job_id: str) -> bool:
        return job_id in ended

    return Places(blobs, blobs.clock, has_ended)


async def take(places: Places, *job_ids: str, limit: int = 10, may_split: bool = False) -> Taken:
    deadline = places._clock() + 10 * MINUTE
    jobs = dict.fromkeys(job_ids or (str(uuid4()),), deadline)
    return await places.take(OWNER, limit, jobs, may_split=may_split)


async def release(places: Places, *job_ids: str) -> None:
    for job_id in job_ids:
        places.release(OWNER, job_id)
    await asyncio.sleep(3 * GATHER_SECONDS)


@pytest.mark.parametrize("chance", [0.0, 0.3])
def test_exactly_the_last_ten_of_200_get_in(chance: float) -> None:
    async def main() -> int:
        blobs = make_blobs()
        blobs.chance = chance
        instances = [make_places(blobs) for _ in range(2)]
        for _ in range(90):
            await take(instances[0], limit=100)
        taken = await asyncio.gather(
            *(take(instances[number % 2], limit=100) for number in range(200))
        )
        return sum(each.count for each in taken)

    assert run(main()) == 10


def test_calls_at_once_share_a_write() -> None:
    async def main() -> None:
        blobs = make_blobs()
        places = make_places(blobs)
        await take(places)
        await asyncio.gather(*(take(places, limit=100) for _ in range(50)))
        assert blobs.is_written <= 2

    run(main())


def test_a_job_has_one_place() -> None:
    async def main() -> None:
        places = make_places(make_blobs())
        assert await take(places, "a", limit=1) == Taken(1, 1)
        assert await take(places, "a", limit=1) == Taken(1, 1)
        assert await take(places, "b", limit=1) == Taken(0, 1)

    run(main())


def test_jobs_of_a_request_get_in_together() -> None:
    async def main() -> None:
        places = make_places(make_blobs())
        assert await take(places, "a", "b", "c", limit=2) == Taken(0, 0)
        assert await take(places, "a", "b", limit=2) == Taken(2, 2)

    run(main())


def test_lines_get_as_many_as_there_are() -> None:
    async def main() -> None:
        places = make_places(make_blobs())
        assert await take(places, "a", "b", "c", limit=2, may_split=True) == Taken(2, 2)

    run(main())


def test_an_end_frees_the_place_in_all_instances() -> None:
    async def main() -> None:
        blobs = make_blobs()
        places, other = make_places(blobs), make_places(blobs)
        await take(other, "x", limit=2)
        await take(places, "a", limit=2)
        await release(other, "a")
        assert await take(places, "b", limit=2) == Taken(1, 2)
        assert await take(other, "c", limit=2) == Taken(0, 2)

    run(main())


def test_a_place_ends_with_the_deadline() -> None:
    async def main() -> None:
        blobs = make_blobs()
        await take(make_places(blobs), limit=1)
        blobs.clock.now += 9 * MINUTE
        assert (await take(make_places(blobs), limit=1)).count == 0
        blobs.clock.now += 2 * MINUTE
        assert (await take(make_places(blobs), limit=1)).count == 1

    run(main())


def test_lost_ends_are_found_before_a_refusal() -> None:
    async def main() -> None:
        blobs = make_blobs()
        ids = [str(number) for number in range(40)]
        await take(make_places(blobs), *ids, limit=40)
        places = make_places(blobs, ended=ids[30:])
        blobs.clock.now += LOOKED_UP_AFTER
        counts = []
        for _ in range(3):
            counts.append((await take(places, limit=40)).count)
            blobs.clock.now += timedelta(seconds=1)
        assert counts == [0, 1, 1]

    run(main())


def test_a_new_job_is_not_looked_up() -> None:
    async def main() -> None:
        blobs = make_blobs()
        await take(make_places(blobs), "a", limit=1)
        assert (await take(make_places(blobs, ended="a"), limit=1)).count == 0

    run(main())


def test_a_failed_write_raises() -> None:
    async def main() -> None:
        blobs = make_blobs()
        places = make_places(blobs)
        await take(places, "a", limit=2)
        blobs.payloads.is_down = True
        with pytest.raises(Unavailable):
            await take(places, "b", limit=2)
        await release(places, "a")
        blobs.payloads.is_down = False
        assert await take(places, "c", "d", limit=2) == Taken(2, 2)
        assert b'"a"' not in blobs.payloads.blobs[f"{PLACES}{OWNER}"][1]

    run(main())
