"""A server with BentoML: `/jobs` takes one picture, `/batched` takes lists of base64 pictures.

Both routes belong to one service. BentoML can also put a second service in front of the service
with the model, but in BentoML 1.4.40, two services in this arrangement fail under load:
https://github.com/bentoml/BentoML/issues/5540.
"""

import base64
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from lab.benchmarks.peers.job import PeerModel


@bentoml.service(workers=1, traffic={"timeout": 180}, logging={"access": {"enabled": False}})
class Classify:
    """The BentoML service. Its process loads the model once, at the start."""

    def __init__(self) -> None:
        self._model = PeerModel.load()

    @bentoml.api(route="/jobs")
    def run(self, picture: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, Any]:
        """Return the model's result for a picture file, which contains the body of the request."""
        return self._model(picture.read_bytes())

    @bentoml.api(route="/batched", batchable=True, max_batch_size=8)
    def run_batch(self, pictures: list[str]) -> list[dict[str, Any]]:
        """Return the model's result for each picture, in base64, of several requests."""
        prepared = [self._model.decode(base64.b64decode(picture)) for picture in pictures]
        return [self._model.finish(output) for output in self._model.run(prepared)]
