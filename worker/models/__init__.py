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
by job. Nothing of queues, replies or blobs comes in sight.

The entry in the catalogue names the file: `implementation = "worker.models.classifier"`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from worker.errors import InvalidInput

__all__ = ["Accepts", "Infer", "InvalidInput"]

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
