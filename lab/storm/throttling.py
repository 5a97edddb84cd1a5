"""Throttle Service Bus under load, and check that no job is dead-lettered (`--throttle SECONDS`).

First Service Bus refuses each request for SECONDS. Then it answers only every third request until
all jobs have ended. Jobs are submitted in both phases. The queue has a shorter lock and a lower
maximum delivery count than a queue in Azure, so a job can fail here more easily than there.
"""

import asyncio

import httpx

from lab.storm.callers import StormCallers
from lab.storm.jobs import StormJob
from lab.storm.rig import COUNTING_CATALOGUE, Rig, RigError, RigOptions
from lab.storm.run import Storm, in_background, read_all_again, wait_until_all_ended

PARTIAL_SHARE = 2 / 3
_LOCK = "lock_seconds = 5\nmax_delivery_count = 3\n"
DEPLOYED_LOCK = "lock_seconds = 10\nmax_delivery_count = 3\n"
"""The lock duration and the maximum delivery count of a model, as two lines of TOML.

Each model in `functions/contract/models.toml` has these lines.
"""

OPTIONS = RigOptions(catalogue=COUNTING_CATALOGUE.replace(_LOCK, DEPLOYED_LOCK))


async def throttling(rig: Rig, run: Storm) -> None:
    """Submit jobs while Service Bus first refuses all requests, and then two of three requests.

    Half of the jobs are submitted in each of the two phases. Record a failure in `run` if a job
    does not succeed or a message is dead-lettered.
    """
    seconds = run.options.throttle
    await rig.start("worker")
    run.say("every component is ready")
    half = len(run.jobs) // 2
    async with StormCallers(rig.url, rig.ran_path, count=32) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        async with in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            await throttle(rig, 1.0)
            run.faults.append(f"each request was refused for {seconds:g} s")
            run.say("Service Bus refuses each request")
            await _submit_evenly(queue, run.jobs[:half], seconds)
            await throttle(rig, PARTIAL_SHARE)
            run.faults.append("two of three requests were refused")
            run.say("Service Bus answers every third request")
            await _submit_evenly(queue, run.jobs[half:], seconds / 2)
            await queue.join()
            run.say("all jobs are submitted")
            await wait_until_all_ended(run)
        await throttle(rig, 0.0)
        await read_all_again(rig, run, callers)
        run.retries = callers.retries
    succeeded = sum(bool(job.final and job.final["status"] == "succeeded") for job in run.jobs)
    dead = await _count_dead_letters(rig)
    run.notes.append(f"answered                  {succeeded} of {len(run.jobs)}")
    run.notes.append(f"dead-lettered             {dead}")
    if succeeded < len(run.jobs):
        run.failures.append(f"only {succeeded} of {len(run.jobs)} jobs succeeded")
    if dead:
        run.failures.append(f"{dead} messages were dead-lettered")


async def throttle(rig: Rig, share: float) -> None:
    """Make Service Bus refuse this share of its requests, from 0 to 1, with `server-busy`."""
    url = f"http://127.0.0.1:{rig.admin_port}/$emulator/faults"
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        response = await client.put(url, json={"throttled_share": share})
    if response.is_error:
        raise RigError(f"Service Bus cannot throttle: {response.status_code} {response.text}")


async def _submit_evenly(
    queue: "asyncio.Queue[StormJob]", jobs: list[StormJob], seconds: float
) -> None:
    for job in jobs:
        queue.put_nowait(job)
        await asyncio.sleep(seconds / len(jobs))


async def _count_dead_letters(rig: Rig) -> int:
    async with httpx.AsyncClient(base_url=rig.url, timeout=30, trust_env=False) as client:
        response = await client.get("/v1/admin/dead-letters")
    return len(response.raise_for_status().json()["dead_letters"])
