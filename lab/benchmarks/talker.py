"""The model of the benchmark `readers`: it emits a text at a given rate, for a given time."""

import asyncio
from collections.abc import AsyncGenerator

from worker.models import Context


class Infer:
    """Emits a word of 20 characters `rate` times a second; the input is `SECONDS RATE`."""

    accepts = "text"

    async def __call__(self, item: str, context: Context) -> AsyncGenerator[str, None]:
        """Yield the words at their times, so that a slow loop does not lower the rate."""
        seconds, rate = map(float, item.split())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(round(seconds * rate)):
            await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
            yield f"{number:019d} "
