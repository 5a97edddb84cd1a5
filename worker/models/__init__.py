"""One file a model: the class `Infer` in it is all that a model engineer writes.

    class Infer:
        accepts = "image"                                # or "bytes" or "file"

        def __init__(self) -> None:                      # once, in the device thread
            self.network = ...

        def preprocess(self, item: Image) -> Tensor:     # on a CPU thread, item by item
            ...

        def __call__(self, batch: list[Tensor]) -> list[dict[str, object]]:
            ...                                          # in the device thread, batch by batch

`accepts` says what `preprocess` gets: "image" is a PIL picture in RGB, turned upright; "bytes" is
the payload as it came; "file" is the same as a binary file to read from, for inputs that need not
be in memory as a whole, and is closed once `preprocess` returns. `__call__` gets what `preprocess`
made of one or more jobs, never more than the catalogue's `max_batch_size`, and returns one JSON
value for each, in their order.

To refuse an input, raise `InvalidInput` with a sentence for the caller, in either method. Anything
else that is raised fails that one job as `inference-failed`: a batch that raises is run again job
by job.

A model that runs long sets `reports_progress = true` in the catalogue and takes its jobs'
contexts, one for each item:

        def __call__(self, batch, contexts):
            for step in range(100):
                ...
                for context in contexts:
                    context.progress(step / 100, "drawing")

`progress` shows callers how far the job is and costs next to nothing, so call it at each step. It
raises `Cancelled` once the job was cancelled: let it pass, and the device is free. In a batch of
several, catch it to go on with the others; what is then returned for that item is dropped.

Nothing of queues, replies or blobs comes in sight.

The entry in the catalogue names the file: `implementation = "worker.models.classifier"`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from worker.errors import Cancelled, InvalidInput

__all__ = ["Accepts", "Cancelled", "Context", "Infer", "InvalidInput", "LongInfer"]

Accepts = Literal["bytes", "file", "image"]


class Infer(Protocol):
    """What the worker expects of a model's class; a class need not derive from it."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Turn one input into what a batch is made of. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Run one batch; one JSON value for each item."""
        ...


class Context(Protocol):
    """A running job, as its model sees it. Both methods raise Cancelled where it is to stop."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Tell how far the job is: a share from 0 to 1, a short text for the caller, or both."""
        ...

    def check(self) -> None:
        """Tell nothing, and hear whether the job is to stop."""
        ...


class LongInfer(Protocol):
    """The same for a model whose catalogue entry says `reports_progress`."""

    accepts: ClassVar[Accepts]

    def preprocess(self, item: Any) -> Any:
        """Turn one input into what a batch is made of. May run on several threads at once."""
        ...

    def __call__(self, batch: list[Any], contexts: list[Context]) -> Sequence[Any]:
        """Run one batch, of which each item has a context; one JSON value for each item."""
        ...
