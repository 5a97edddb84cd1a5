"""The task `tiny` of the comparison with the peers, as a model of Loosely."""

from io import BufferedIOBase
from typing import Any, ClassVar

from lab.benchmarks.peers.job import TINY, PeerModel, announce_model_process
from worker.models import Accepts


class Infer:
    """A model of Loosely that returns a constant for any body."""

    accepts: ClassVar[Accepts] = "file"

    def __init__(self) -> None:
        self._model = PeerModel(TINY)
        announce_model_process()

    def preprocess(self, item: BufferedIOBase) -> bytes:
        """Return the body."""
        return item.read()

    def __call__(self, batch: list[bytes]) -> list[Any]:
        """Return the batch unchanged."""
        return self._model.run(batch)

    def postprocess(self, output: Any) -> dict[str, object]:
        """Return the constant."""
        return self._model.finish(output)
