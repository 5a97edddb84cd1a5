"""Run jobs that kill their worker among other jobs (`--killers N`).

Half of the jobs are for each of two models, which one worker serves. Each killer must be
dead-lettered after as many failures as its model allows, and each other job must succeed.
"""

import asyncio
import random
import re
import signal
from typing import Any

import httpx

from lab.storm.callers import StormCallers
from lab.storm.jobs import JobKind, StormJob
from lab.storm.rig import COUNTING_CATALOGUE, Rig, RigOptions
from lab.storm.run import Storm, in_background, read_all_again, wait_until_all_ended
from worker.processes.history import KILLS_PER_FAILURE

_MODELS = ("counting", "recounting")
_MAX_DELIVERY_COUNT = 3
_DEATHS = (1, 9, -signal.SIGSEGV, -signal.SIGABRT)
# The share of killers that SIGKILL ends, as it does if memory runs out.
_SIGKILL_SHARE = 0.1
_COUNTS = re.compile(r"(\d+) deliveries .* failed, and in (\d+) more the worker was killed")

OPTIONS = RigOptions(
    catalogue=COUNTING_CATALOGUE
    + COUNTING_CATALOGUE.replace("counting", _MODELS[1], 1).replace(
        'queue = "counting"', f'queue = "{_MODELS[1]}"'
    )
)


def plan_killers(count: int, killer_count: int, seed: int) -> list[StormJob]:
    """Return `count` jobs in random order, of which `killer_count` kill their worker."""
    chance = random.Random(f"killers {seed}")
    jobs = []
    for number in range(count):
        death = None
        if number < killer_count:
            is_kill = number < killer_count * _SIGKILL_SHARE
            death = -signal.SIGKILL if is_kill else chance.choice(_DEATHS)
        model_ms, model = chance.choice((5, 20, 100)), _MODELS[number % len(_MODELS)]
        jobs.append(StormJob(number, JobKind.ASYNC, model_ms, model, death))
    chance.shuffle(jobs)
    return jobs


async def killers(rig: Rig, run: Storm) -> None:
    """Submit all jobs, wait until they have ended, and check why the killers were dead-lettered.

    `rig` runs the system that is tested.
    """
    await rig.start("worker")
    run.say("every component is ready")
    async with StormCallers(rig.url, rig.ran_path) as callers:
        queue: asyncio.Queue[StormJob] = asyncio.Queue()
        for job in run.jobs:
            queue.put_nowait(job)
        async with in_background(callers.submit_all(queue), callers.watch(run.jobs)):
            await queue.join()
            run.say("all jobs are submitted")
            await wait_until_all_ended(run)
        await read_all_again(rig, run, callers)
        run.retries = callers.retries
    letters = await _read_dead_letters(rig)
    killed_by = {job.ids[0]: job for job in run.jobs if job.death is not None}
    run.notes.append(f"dead-lettered             {len(letters)} of {len(killed_by)} killers")
    for letter in letters:
        if letter["job_id"] not in killed_by:
            run.failures.append(f"{letter['job_id']} is no killer: {letter['description']}")
            continue
        found = _COUNTS.search(letter["description"] or "")
        failed, killed = map(int, found.groups()) if found else (0, 0)
        if failed + killed // KILLS_PER_FAILURE != _MAX_DELIVERY_COUNT:
            run.failures.append(f"{letter['job_id']}: {letter['description']}")
    if len(letters) != len(killed_by):
        run.failures.append(f"{len(letters)} dead letters for {len(killed_by)} killers")
    counts = sorted(rig.runs()[job.label] for job in killed_by.values())
    run.notes.append(f"runs of a killer          {', '.join(map(str, counts))}")
    most = max(letter["delivery_count"] for letter in letters) if letters else 0
    attempts = [job.final["attempt"] or 0 for job in run.jobs if job.final and job.death is None]
    run.notes.append(
        f"deliveries                {most} of a killer, {max(attempts)} of another job"
    )


async def _read_dead_letters(rig: Rig) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=rig.url, timeout=30, trust_env=False) as client:
        response = await client.get("/v1/admin/dead-letters", params={"limit": 100})
    letters: list[dict[str, Any]] = response.raise_for_status().json()["dead_letters"]
    return letters
