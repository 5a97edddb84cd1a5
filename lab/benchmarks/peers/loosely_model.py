"""The tasks `noop` and `resnet18` of the comparison with the peers, as a model of Loosely.

`lab/benchmarks/peers/models.toml` contains a catalogue entry for each task.
"""

from typing import Any, ClassVar

from PIL.Image import Image, new

from lab.benchmarks.peers.job import SIDE_PIXELS, PeerModel, announce_model_process
from worker.models import Accepts


class Infer:
    """A model of Loosely that runs the task `noop` or `resnet18`.

    The servers with which Loosely is compared run the tasks with the same code, `PeerModel`.
    """

    accepts: ClassVar[Accepts] = "image"

    def __init__(self, task: str) -> None:
        self._model = PeerModel(task)
        announce_model_process()

    def sample(self) -> Any:
        """Return a black image in the format that `preprocess` returns."""
        return self._model.prepare(new("RGB", (SIDE_PIXELS, SIDE_PIXELS)))

    def preprocess(self, item: Image) -> Any:
        """Return the cropped and normalised image. The worker has already decoded it."""
        return self._model.prepare(item)

    def __call__(self, batch: list[Any]) -> list[Any]:
        """Run one forward pass over the whole batch, and return one output for each image."""
        return self._model.run(batch)

    def postprocess(self, output: Any) -> dict[str, object]:
        """Return the result of one picture, in the format of `PeerModel.finish`."""
        return self._model.finish(output)
