"""The models: one file for each. Its class `Infer` is all that a model's author writes.

The short form takes one item and returns one result:

    class Infer:
        def __init__(self, weights: Weights) -> None:    # once, in the device thread
            self.network = weights.load_into(Network())

        def __call__(self, image: Image) -> dict[str, object]:
            ...                                          # in the device thread, item by item

The full form splits the work, so that the device thread only runs batches:

    class Infer:
        accepts = "image"

        def preprocess(self, item: Image) -> Tensor:     # on CPU threads, item by item
            ...

        def __call__(self, batch: list[Tensor]) -> list[Tensor]:
            ...                                          # in the device thread, batch by batch

        def postprocess(self, output: Tensor) -> dict[str, object]:
            ...                                          # on CPU threads, item by item; optional

`preprocess`, or in the short form `__call__`, may also take the caller's `parameters`.

docs/models.md describes both forms, the constructor's arguments, the kinds of inputs and results,
and models that run long. A class need not derive from the protocols here. It never deals with
queues, replies or blobs.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from worker.errors import Cancelled, InvalidInput
from worker.inputs.audio import Audio
from worker.weights.weights import Weights

__all__ = [
    "Accepts",
    "Audio",
    "Cancelled",
    "Context",
    "Infer",
    "InvalidInput",
    "LongInfer",
    "LongShortInfer",
    "Postprocesses",
    "ShortInfer",
    "Weights",
]

Accepts = Literal["audio", "bytes", "file", "image", "json", "tensor", "text"]
"""The kind of input that a model takes:

    image   a PIL image in RGB, rotated upright
    audio   an `Audio`: mono samples as float32, and their sample rate
    text    a str
    json    the decoded JSON value
    tensor  a NumPy array, or a dictionary of arrays by name
    bytes   the payload unchanged
    file    the payload as a binary file, never in memory as a whole; closed afterwards
"""


class Context(Protocol):
    """A running job as its model sees it. Both methods raise Cancelled if the job is to stop."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Report how far the job is: a fraction from 0 to 1, a short text, or both."""
        ...

    def check(self) -> None:
        """Raise Cancelled if the job is to stop; report nothing."""
        ...


class ShortInfer(Protocol):
    """The short form. `accepts` may be omitted if the entry's media types imply the kind."""

    def __call__(self, item: Any, /) -> Any:
        """Run on one item; return its result."""
        ...


class LongShortInfer(Protocol):
    """The short form of a model whose catalogue entry says `reports_progress`."""

    def __call__(self, item: Any, context: Context, /) -> Any:
        """Run on one item; return its result."""
        ...


class Infer(Protocol):
    """The full form: a class that has `preprocess`."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Return an item for a batch, made from one input. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Run one batch; return a result, or what `postprocess` takes, for each item in order."""
        ...


class LongInfer(Protocol):
    """The full form of a model whose catalogue entry says `reports_progress`."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Return an item for a batch, made from one input. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any], contexts: list[Context]) -> Sequence[Any]:
        """Run one batch with a context for each item; return a result for each item in order."""
        ...


class Postprocesses(Protocol):
    """An optional method of the full form, for results that need work on the CPU."""

    def postprocess(self, output: Any) -> Any:
        """Return one result, made from one output. May run on several threads at once."""
        ...
