"""Read what the call of a model yields, and make the result of the job from it."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from contract.catalogue import ModelEntry
from worker.models import Context


async def drain(generator: AsyncGenerator[Any, None], context: Context, model: ModelEntry) -> Any:
    """Read an async generator to its end, and return the result of its values.

    The result is their concatenation if the model's result is a text, and otherwise their list.
    """
    async with contextlib.aclosing(generator):
        values = [value async for value in generator]
    return "".join(values) if model.result_media_type.startswith("text/") else values
