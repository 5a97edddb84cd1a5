"""The tasks that Loosely and its peers (other ways to serve a model) run for each request.

Each task gets a JPEG and returns JSON, except `tiny`.

tiny      return a constant for any body
noop      decode the picture, crop it to 224 x 224 pixels, and return a constant
resnet18  decode and crop the picture, run ResNet-18 on one thread, and return the five best classes

The weights of ResNet-18 are random numbers with a fixed seed.

`python -m lab.benchmarks.peers.job expect PICTURE…` prints the results of `resnet18` as JSON.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

TINY = "tiny"
TINY_BODY = b"a job"
TASKS = (TINY, "noop", "resnet18")
SIDE_PIXELS = 224
CLASSES_COUNT = 5
_CENTRE_SHARE = SIDE_PIXELS / 256
NOOP_RESULT: dict[str, Any] = {"labels": [{"index": 0, "score": 1.0}]}


class PeerModel:
    """A loaded model. The method `run` takes a batch of prepared pictures.

    The method `__call__` takes one JPEG, prepares it, and returns the result.
    """

    def __init__(self, task: str) -> None:
        self._reads_pictures = task != TINY
        self._network: Any = None
        if task == "resnet18":
            import torch  # noqa: PLC0415 - noop needs no torch
            import torchvision  # noqa: PLC0415

            torch.set_num_threads(1)
            torch.manual_seed(0)
            self._network = torchvision.models.resnet18(weights=None).eval()
            self.run([self.prepare(Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS)))])
        elif task not in TASKS:
            raise ValueError(f"the task {task!r} is unknown: use one of {', '.join(TASKS)}")

    @classmethod
    def load(cls) -> "PeerModel":
        """Load the model that `PEER_TASK` names, and report the id of this process."""
        model = cls(os.environ["PEER_TASK"])
        announce_model_process()
        return model

    def __call__(self, picture: bytes) -> dict[str, Any]:
        """Run the model with one JPEG, and return the result."""
        return self.finish(self.run([self.decode(picture)])[0])

    def decode(self, picture: bytes) -> Any:
        """Decode a JPEG, and return the picture as an item of a batch for `run`.

        For the task `tiny`, return the body unchanged.
        """
        if not self._reads_pictures:
            return picture
        return self.prepare(Image.open(BytesIO(picture)).convert("RGB"))

    def prepare(self, image: Image.Image) -> Any:
        """Return the middle square of the image, as an item of a batch for `run`.

        The result is a normalised tensor for the task `resnet18`, and an image for `noop`.
        """
        side = min(image.size) * _CENTRE_SHARE
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        square = image.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR, box=box)
        if self._network is None:
            return square
        from torchvision.transforms import functional  # noqa: PLC0415 - as above

        pixels = functional.to_tensor(square)
        return functional.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def run(self, batch: Sequence[Any]) -> list[Any]:
        """Run one forward pass over the whole batch, and return one output for each picture.

        Without a network, return the batch unchanged.
        """
        if self._network is None:
            return list(batch)
        import torch  # noqa: PLC0415 - as above

        with torch.inference_mode():
            return list(self._network(torch.stack(list(batch))))

    def finish(self, output: Any) -> dict[str, Any]:
        """Return the five best classes with their scores. Without a network, return a constant."""
        if self._network is None:
            return NOOP_RESULT
        scores, indices = output.softmax(dim=0).topk(CLASSES_COUNT)
        pairs = zip(indices.tolist(), scores.tolist(), strict=True)
        return {"labels": [{"index": index, "score": round(score, 6)} for index, score in pairs]}


def import_libraries() -> None:
    """Import the libraries of the model that `PEER_TASK` names, without loading the model."""
    if os.environ["PEER_TASK"] == "resnet18":
        importlib.import_module("torchvision")


def announce_model_process() -> None:
    """Create a file with this process's id in the folder `PEER_MODEL_PROCESSES`, if it is set."""
    if folder := os.environ.get("PEER_MODEL_PROCESSES"):
        (Path(folder) / str(os.getpid())).touch()


def main(arguments: list[str]) -> None:
    """Print a JSON list with the result of `resnet18` for each picture file in the arguments."""
    _, *pictures = arguments
    model = PeerModel("resnet18")
    json.dump([model(Path(picture).read_bytes()) for picture in pictures], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
