"""The arq worker: it polls every 10 ms, and a job of a killed worker runs again after 15 s."""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from arq.connections import RedisSettings

from benchmarks.peers.job import PeerModel


async def load(context: dict[str, Any]) -> None:
    """Load the model, and make the thread that runs it. Log no single jobs."""
    logging.getLogger("arq.worker").setLevel(logging.WARNING)
    context["model"] = PeerModel.load()
    context["thread"] = ThreadPoolExecutor(1)


async def classify(context: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """Run the model in its thread."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(context["thread"], context["model"], picture)


class WorkerSettings:
    """arq's settings. A job's lock lasts for `job_timeout` and 10 s more."""

    functions: ClassVar[list[Any]] = [classify]
    on_startup = load
    redis_settings = RedisSettings.from_dsn(os.environ["PEER_REDIS"])
    poll_delay = 0.01
    job_timeout = 5
    keep_result = 300
