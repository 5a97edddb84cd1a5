"""Test models that emit: what generators yield, and what is emitted without a job."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contract.catalogue import Catalogue
from contract.messages import Json
from contract.streams import MAX_CHUNK_BYTES
from worker.errors import Cancelled, InferenceFailed
from worker.inference.loaded_model import LoadedModel, NullContext
from worker.models import Accepts, Context

NOOP = Catalogue.load()["noop"]
TEXT = replace(
    NOOP,
    name="text",
    media_types=("text/plain",),
    reports_progress=True,
    result_media_type="text/plain",
)
VALUES = replace(TEXT, name="values", result_media_type="application/json")


class Emitted(NullContext):
    """The context of a model call. It appends each chunk to `chunks`."""

    is_streaming = True

    def __init__(self, limit: int = 100) -> None:
        self.chunks: list[Json] = []
        self._limit = limit

    def emit(self, chunk: Json) -> None:
        if len(self.chunks) == self._limit:
            raise Cancelled("the job was cancelled while it ran")
        super().emit(chunk)
        self.chunks.append(chunk)


class Item:
    """An item model that yields the letters of its input."""

    def __call__(self, text: str, context: Context) -> Iterator[str]:
        yield from text


class Returning:
    """An item model that yields letters, and returns the number of them."""

    def __call__(self, text: str, context: Context) -> Iterator[str]:
        yield from text
        return f"{len(text)} letters"  # type: ignore[return-value]


class Concurrent:
    """A concurrent model that yields the letters of its input."""

    async def __call__(self, text: str, context: Context) -> AsyncIterator[str]:
        for letter in text:
            yield letter


class Batched:
    """A batch model that yields the letters of its inputs, while they have any."""

    accepts: ClassVar[Accepts] = "text"

    def preprocess(self, item: str) -> str:
        return item

    def __call__(self, batch: list[str], contexts: list[Context]) -> Iterator[list[str | None]]:
        for index in range(max(map(len, batch))):
            yield [text[index] if index < len(text) else None for text in batch]


class Emitting:
    """An item model that emits what it does not return."""

    def __call__(self, text: str, context: Context) -> str:
        context.emit({"text": text})
        return "done"


@pytest.mark.parametrize("infer", [Item(), Batched(), Concurrent()])
def test_yielded_texts_are_emitted_and_joined(infer: Any) -> None:
    contexts = [Emitted(), Emitted()]
    loaded = LoadedModel(TEXT, infer)
    assert list(loaded.call_model(["abc", "d"], contexts)) == ["abc", "d"]
    assert [context.chunks for context in contexts] == [["a", "b", "c"], ["d"]]
    loaded.close()


@pytest.mark.parametrize("infer", [Item(), Batched(), Concurrent()])
def test_yielded_values_become_a_list(infer: Any) -> None:
    loaded = LoadedModel(VALUES, infer)
    assert list(loaded.call_model(["ab"], [Emitted()])) == [["a", "b"]]
    loaded.close()


def test_returned_value_is_the_result() -> None:
    context = Emitted()
    assert list(LoadedModel(TEXT, Returning()).call_model(["abc"], [context])) == ["3 letters"]
    assert context.chunks == ["a", "b", "c"]


def test_chunks_are_not_part_of_the_result() -> None:
    context = Emitted()
    assert list(LoadedModel(TEXT, Emitting()).call_model(["abc"], [context])) == ["done"]
    assert context.chunks == [{"text": "abc"}]


def test_model_without_context_may_be_a_generator() -> None:
    class Alone:
        def __call__(self, text: str) -> Iterator[str]:
            yield from text

    loaded = LoadedModel(replace(TEXT, reports_progress=False), Alone())
    assert list(loaded.call_model(["abc"])) == ["abc"]


@pytest.mark.parametrize("infer", [Item(), Batched(), Concurrent()])
def test_stop_ends_the_generator(infer: Any) -> None:
    context, loaded = Emitted(limit=2), LoadedModel(TEXT, infer)
    with pytest.raises(Cancelled):
        loaded.call_model(["abcdef"], [context])
    assert context.chunks == ["a", "b"]
    loaded.close()


def test_generator_is_closed_after_a_stop() -> None:
    closed = []

    class Infer:
        def __call__(self, text: str, context: Context) -> Iterator[str]:
            try:
                yield from text
            finally:
                closed.append(text)

    with pytest.raises(Cancelled):
        LoadedModel(TEXT, Infer()).call_model(["abc"], [Emitted(limit=1)])
    assert closed == ["abc"]


def test_text_model_must_yield_texts() -> None:
    class Infer:
        def __call__(self, text: str, context: Context) -> Iterator[int]:
            yield 1

    with pytest.raises(InferenceFailed, match="yielded a int; expected texts"):
        LoadedModel(TEXT, Infer()).call_model(["abc"], [Emitted()])


def test_model_of_the_guide_emits() -> None:
    guide = (Path(__file__).parents[3] / "docs/how-to/models.md").read_text(encoding="utf-8")
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "yield" in each
    ]
    names: dict[str, Any] = {"__name__": "guide"}
    exec(code, names)
    context = Emitted()
    assert list(LoadedModel(TEXT, names["Infer"]()).call_model(["one two"], [context])) == [
        "one two "
    ]
    assert context.chunks == ["one ", "two "]


@pytest.mark.parametrize("chunks", ["ab", ["a"], 7])
def test_batch_model_must_yield_a_list(chunks: Any) -> None:
    class Infer(Batched):
        def __call__(self, batch: list[str], contexts: list[Context]) -> Iterator[Any]:
            yield chunks

    with pytest.raises(InferenceFailed, match="expected a list with one chunk or None for each"):
        LoadedModel(TEXT, Infer()).call_model(["a", "b"], [Emitted(), Emitted()])


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        ("x" * MAX_CHUNK_BYTES, "65538 bytes as JSON; emit at most 65536"),
        (float("nan"), "cannot be written as JSON"),
        ({1, 2}, "cannot be written as JSON"),
    ],
)
def test_wrong_chunk_is_refused(chunk: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        NullContext().emit(chunk)
    NullContext().emit("x" * (MAX_CHUNK_BYTES - 2))
