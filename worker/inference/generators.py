"""Read what the call of a model yields, emit it, and make the result of the job from it.

If the model returns a value too, this is the result. Otherwise the result is the concatenation of
what it has yielded if the model's result is a text, and the list of these values if not.
"""

import contextlib
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from contract.catalogue import ModelEntry
from worker.errors import InferenceFailed
from worker.models import Context


async def drain(generator: AsyncGenerator[Any, None], context: Context, model: ModelEntry) -> Any:
    """Emit what an async generator yields, and return the result."""
    values = []
    async with contextlib.aclosing(generator):
        async for value in generator:
            values.append(value)
            context.emit(value)
            await context.wait_for_room()
    return _join(values, model)


def drain_item(
    generator: Generator[Any, None, Any], contexts: Sequence[Context], model: ModelEntry
) -> Any:
    """Emit what the generator of an item model yields, and return the result.

    `contexts` is empty if the model takes no context.
    """
    values, read = [], _Values(generator)
    with contextlib.closing(generator):
        for value in read:
            values.append(value)
            for context in contexts:
                context.emit(value)
    return _join(values, model) if read.returned is None else read.returned


def drain_batch(
    generator: Generator[Any, None, Any],
    count: int,
    contexts: Sequence[Context],
    model: ModelEntry,
) -> Any:
    """Emit what the generator of a batch model yields, and return the results.

    It yields a list with one value for each of the `count` items, None for no chunk.
    """
    values: list[list[Any]] = [[] for _ in range(count)]
    read = _Values(generator)
    with contextlib.closing(generator):
        for chunks in read:
            if not isinstance(chunks, Sequence) or isinstance(chunks, str) or len(chunks) != count:
                raise InferenceFailed(
                    f"the model yielded a {type(chunks).__name__}; expected a list with one chunk "
                    f"or None for each of the {count} inputs"
                )
            for index, chunk in enumerate(chunks):
                if chunk is not None:
                    values[index].append(chunk)
                    if contexts:
                        contexts[index].emit(chunk)
    return [_join(each, model) for each in values] if read.returned is None else read.returned


class _Values:
    """Iterates over a generator, and then has what the generator returned."""

    def __init__(self, generator: Generator[Any, None, Any]) -> None:
        self._generator = generator
        self.returned: Any = None

    def __iter__(self) -> Generator[Any, None, None]:
        self.returned = yield from self._generator


def _join(values: Sequence[Any], model: ModelEntry) -> Any:
    if not model.result_media_type.startswith("text/"):
        return values
    for value in values:
        if not isinstance(value, str):
            raise InferenceFailed(
                f"the model yielded a {type(value).__name__}; expected texts, because its result "
                f"is {model.result_media_type}"
            )
    return "".join(values)
