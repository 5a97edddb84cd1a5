"""The arq worker. It asks Redis for jobs every 10 ms.

If the worker is killed, its jobs stay locked for up to 15 s. Then the next worker runs them.
"""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from arq.connections import RedisSettings

from lab.benchmarks.peers.job import PeerModel


async def load(context: dict[str, Any]) -> None:
    """Load the model, and start the thread that runs it. Turn off arq's log lines for each job."""
    logging.getLogger("arq.worker").setLevel(logging.WARNING)
    context["model"] = PeerModel.load()
    context["thread"] = ThreadPoolExecutor(1)


async def classify(context: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """Run the model with one JPEG in the model's thread, and return the result."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(context["thread"], context["model"], picture)


class WorkerSettings:
    """The settings of the arq worker, which locks a running job for `job_timeout` plus 10 s."""

    functions: ClassVar[list[Any]] = [classify]
    on_startup = load
    redis_settings = RedisSettings.from_dsn(os.environ["PEER_REDIS"])
    poll_delay = 0.01
    job_timeout = 5
    keep_result = 300
