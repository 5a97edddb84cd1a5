"""Loads a model and calls it. What the model's own code raises goes through to the consumer."""

import importlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from contract.catalogue import Model
from contract.fields import Json
from worker.errors import InferenceFailed, UnsupportedMediaType
from worker.inputs import pictures
from worker.models import Context, Infer, LongInfer


class Runner:
    """One loaded model."""

    def __init__(self, model: Model, infer: Infer | LongInfer) -> None:
        self._model = model
        self._infer = infer

    @classmethod
    def load(cls, model: Model, torch_threads: int) -> "Runner":
        """Import the model's file and build its class; raises whatever that raises."""
        module = importlib.import_module(model.implementation)
        # Only where the model has brought torch along: a worker without such models is small.
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(torch_threads)
        make = cast(Callable[[], Infer | LongInfer], module.Infer)
        return cls(model, make())

    @property
    def reads_files(self) -> bool:
        """Whether the model takes its inputs as files, so that none need be in memory."""
        return self._infer.accepts == "file"

    def prepare(self, data: bytes, media_type: str) -> Any:
        """Decode and preprocess one input: what a batch is made of."""
        if self.reads_files:
            return self.prepare_file(io.BytesIO(data), media_type)
        bare_type = self._checked(media_type)
        if self._infer.accepts == "image":
            picture = pictures.decode(data, bare_type, self._model.max_pixels)
            return self._infer.preprocess(picture)
        return self._infer.preprocess(data)

    def prepare_file(self, file: io.BufferedIOBase, media_type: str) -> Any:
        """The same for a model that reads files; the file is closed afterwards."""
        with file:
            self._checked(media_type)
            return self._infer.preprocess(file)

    def _checked(self, media_type: str) -> str:
        bare_type = media_type.partition(";")[0].strip().lower()
        if bare_type not in self._model.media_types:
            raise UnsupportedMediaType(
                f"{self._model.name} does not take {bare_type}; "
                f"send one of {', '.join(self._model.media_types)}"
            )
        return bare_type

    @property
    def reports_progress(self) -> bool:
        """Whether the model is called with a context for each item."""
        return self._model.reports_progress

    def run(self, batch: list[Any], contexts: Sequence[Context] = ()) -> Sequence[Json]:
        """One pass of the model: a result for each item, in their order."""
        if self.reports_progress:
            results = cast(LongInfer, self._infer)(batch, list(contexts))
        else:
            results = cast(Infer, self._infer)(batch)
        if len(results) != len(batch):
            raise InferenceFailed(f"the model gave {len(results)} results for {len(batch)} inputs")
        return results
