"""The models, one file for each. A model's author writes only the class `Infer` in this file.

`Infer` is an `ItemModel`, a `BatchModel` or a `ConcurrentModel`, but need not derive from these
protocols.

A job's parameters are passed to `preprocess` in a batch model, and to `__call__` in other models,
as keyword-only arguments or as a mapping in the argument `parameters`. Named inputs are
keyword-only arguments whose type hint is `Image`, `Audio`, `bytes` or `ndarray`, or contains an
`Input`. A model with named results returns a `Results` object.

docs/how-to/models.md describes the constructor's arguments, the kinds of inputs and results, and
long-running models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, get_args

from worker.errors import Cancelled, ChildFailed, InvalidInput, LoadInterrupted
from worker.inputs.audio import Audio
from worker.inputs.opened import Accepts
from worker.weights.weights import Weights

__all__ = [
    "Accepts",
    "Audio",
    "BatchModel",
    "Cancelled",
    "ChildFailed",
    "ConcurrentModel",
    "Context",
    "Input",
    "InvalidInput",
    "ItemModel",
    "LoadInterrupted",
    "Loading",
    "Range",
    "Results",
    "Weights",
]


@dataclass(frozen=True, slots=True)
class Input:
    """Declares that a keyword-only argument of a model's method receives a named input.

    Use it in the type hint of the argument: `Annotated[str, Input("text")]`. Without `Input`, an
    argument of the type `str` receives a parameter of the job.
    """

    accepts: Accepts

    def __post_init__(self) -> None:
        known = [kind for kind in get_args(Accepts) if kind != "file"]
        if self.accepts not in known:
            raise ValueError(
                f"a named input cannot accept {self.accepts!r}; expected one of {', '.join(known)}"
            )


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value of a numeric parameter. None means that there is no limit.

    Use it in the type hint of a keyword-only argument: `Annotated[int, Range(1, 100)]`.
    """

    minimum: float | None = None
    maximum: float | None = None

    def as_keys(self) -> dict[str, Any]:
        """Return the bounds as keys of a JSON Schema."""
        keys = {"minimum": self.minimum, "maximum": self.maximum}
        return {key: value for key, value in keys.items() if value is not None}


class Results:
    """The result of a model, and its named results.

    A model whose catalogue entry has named results returns this object:

        return Results({"objects": found}, mask=picture)

    A model may declare its named results in a subclass, which is the type hint of what the model
    returns. `None` in a type hint means that the model may omit the result:

        class Found(Results):
            mask: Annotated[Image, "The pixels of all objects."]
            largest: Image | None

    Attributes:
        first: The result.
        named: The named results by name. Do not change this mapping.
    """

    first: Any
    named: Mapping[str, Any]

    def __init__(self, first: Any, /, **named: Any) -> None:
        self.first = first
        self.named = named

    def __getattr__(self, name: str) -> Any:
        """Return the named result `name`. Raises AttributeError if there is no such result."""
        # An unpickled or copied object has no attributes at first.
        if name not in {"first", "named"} and name in self.named:
            return self.named[name]
        raise AttributeError(name)


class Context(Protocol):
    """The object with which a model reports the progress of one running job.

    With it, the model also emits parts of its result while it runs, and runs jobs of other models.
    All methods except `wait_for_room` raise an error if the job must stop. The error is Cancelled
    if the job was cancelled.
    """

    @property
    def is_streaming(self) -> bool:
        """Whether somebody has asked for the chunks. If not, `emit` only checks the job."""

    @property
    def operation(self) -> str | None:
        """The operation of OpenAI's API that the caller has called; None for an ordinary job."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Report the job's progress: a fraction from 0 to 1, a text, or both.

        Raises ValueError if the fraction is not from 0 to 1, or if the text has more than 500
        characters.
        """

    def emit(self, chunk: Any) -> None:
        """Give a part of the result to the callers that follow the job's stream.

        A chunk is a text or a JSON value. Raises ValueError if it has more than 64 KiB as JSON. If
        the callers' store is slower than the model, this waits for up to two seconds in all, except
        on an event loop.
        """

    async def wait_for_room(self) -> None:
        """Wait while more than 1 MiB of chunks is not written.

        An `async def` model that emits much awaits this after `emit`. A generator need not.
        """

    def check(self) -> None:
        """Raise an error if the job must stop. The error is Cancelled if the job was cancelled."""

    def run(
        self, model: str, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Run one job of another model for each input, and return their results in this order.

        The jobs have the deadline of this job, and are cancelled with it. Raises ChildFailed if a
        job fails or is refused.

            labels = context.run("classifier", [image.crop(box) for box in boxes])
        """


class Loading(Protocol):
    """The argument `loading` of a constructor, for a model whose load takes long."""

    def progress(self, message: str) -> None:
        """Say what the load does now; 500 characters are shown. Raises as `check` does."""

    def check(self) -> None:
        """Raise LoadInterrupted if the worker shuts down."""

    def reload(self, crash: str = "") -> None:
        """Request that the model is loaded again, for example because its server has died.

        Any thread may call this, also after the load. The running jobs end first. `crash` says what
        happened, if it is the model's own fault: after 10 in 600 s the model is broken.
        """

    def wait(self, seconds: float) -> None:
        """Sleep. Raises LoadInterrupted as soon as the worker shuts down."""


class ItemModel(Protocol):
    """A model that processes one item in each call. It has no method `preprocess`.

        class Infer:
            def __init__(self, weights: Weights) -> None:    # once, in the device thread
                self.network = weights.load_into(Network())

            def __call__(self, image: Image) -> dict[str, object]:
                ...                                          # in the device thread, item by item

    The attribute `accepts` may be omitted if the media types in the catalogue entry determine the
    kind of input. A model that reports progress takes the job's `Context` after the item.
    """

    def __call__(self, item: Any, /) -> Any:
        """Run the model on one item, and return the item's result."""


class BatchModel(Protocol):
    """A model that processes a whole batch in each call. It has the method `preprocess`.

        class Infer:
            accepts = "image"

            def preprocess(self, item: Image) -> Tensor:     # on CPU threads, item by item
                ...

            def __call__(self, batch: list[Tensor]) -> list[Tensor]:
                ...                                          # in the device thread, batch by batch

            def postprocess(self, output: Tensor) -> dict[str, object]:
                ...                                        # on CPU threads, item by item; optional

    Without `postprocess`, each output is the result of a job. A model that reports progress takes a
    list with the `Context` of each item after the batch.
    """

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Convert one input to an item of a batch. Several threads call this at the same time."""

    def __call__(self, batch: list[Any], /) -> Sequence[Any]:
        """Run the model on one batch, and return one output for each item, in the same order."""


class ConcurrentModel(Protocol):
    """A model that processes many items at once, each in a coroutine on one event loop.

        class Infer:
            async def __call__(self, item: Any, context: Context) -> Any:
                ...                                          # in the device thread

    At most `max_concurrent_jobs` calls run at the same time. If a job must stop, its call gets
    `asyncio.CancelledError`. Code that blocks the event loop delays all jobs of the model. The call
    may also be an async generator.
    """

    async def __call__(self, item: Any, context: Context, /) -> Any:
        """Run the model on one item, and return the item's result."""
