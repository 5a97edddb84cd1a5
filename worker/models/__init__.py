"""One file a model: the class `Infer` in it is all that a model engineer writes.

The short form takes one item and gives one result:

    class Infer:
        def __init__(self, weights: Weights) -> None:    # once, in the device thread
            self.network = weights.load_into(Network())

        def __call__(self, image: Image) -> dict[str, object]:
            ...                                          # in the device thread, item by item

The full form splits the work, so that the device runs batches and nothing else:

    class Infer:
        accepts = "image"

        def preprocess(self, item: Image) -> Tensor:     # on CPU threads, item by item
            ...

        def __call__(self, batch: list[Tensor]) -> list[Tensor]:
            ...                                          # in the device thread, batch by batch

        def postprocess(self, output: Tensor) -> dict[str, object]:
            ...                                          # on CPU threads, item by item; optional

`preprocess`, or in the short form `__call__`, may also take `parameters`, the caller's.

docs/models.md tells of both, of the constructor's arguments, of kinds of inputs and results, and of
models that run long. A class need not derive from any of the protocols here.

Nothing of queues, replies or blobs comes in sight.
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
"""What a model gets for one input:

    image   a PIL picture in RGB, turned upright
    audio   an `Audio`: mono samples as float32, and their rate
    text    a str
    json    what Python makes of JSON
    tensor  a NumPy array, or a dictionary of arrays by name
    bytes   the payload as it came
    file    the same as a binary file, which need not be in memory as a whole; closed afterwards
"""


class Context(Protocol):
    """A running job, as its model sees it. Both methods raise Cancelled where it is to stop."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Tell how far the job is: a share from 0 to 1, a short text for the caller, or both."""
        ...

    def check(self) -> None:
        """Tell nothing, and hear whether the job is to stop."""
        ...


class ShortInfer(Protocol):
    """The short form. `accepts` may be left out where the entry's media types leave no choice."""

    def __call__(self, item: Any, /) -> Any:
        """Run on one item; gives its result."""
        ...


class LongShortInfer(Protocol):
    """The short form of a model whose catalogue entry says `reports_progress`."""

    def __call__(self, item: Any, context: Context, /) -> Any:
        """Run on one item; gives its result."""
        ...


class Infer(Protocol):
    """The full form: what makes it that is its `preprocess`."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Turn one input into what a batch is made of. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Run one batch; gives a result, or what `postprocess` takes, for each item in order."""
        ...


class LongInfer(Protocol):
    """The full form of a model whose catalogue entry says `reports_progress`."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Turn one input into what a batch is made of. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any], contexts: list[Context]) -> Sequence[Any]:
        """Run one batch, of which each item has a context; one result for each item."""
        ...


class Postprocesses(Protocol):
    """What a model of the full form has more, where results take work on the CPU."""

    def postprocess(self, output: Any) -> Any:
        """Make one result of one output. May run on several threads at once."""
        ...
