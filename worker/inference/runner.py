"""Loads a model and calls it. What the model's own code raises goes through to whoever called.

prepare    a CPU thread        decode and preprocess one input
run        the device thread   one batch
finish     a CPU thread        postprocess one output, and write it as the entry's media type
"""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from contract import media
from contract.catalogue import Model
from worker.errors import ModelUnfit, UnsupportedMediaType
from worker.inference import results
from worker.inference.forms import Parameters, accepted, checked, construct, shaped
from worker.inference.hooks import Hooks
from worker.inputs import audio, pictures, tensors, texts
from worker.models import Accepts, Context, Weights

_NONE: Parameters = MappingProxyType({})


class Runner:
    """One loaded model."""

    def __init__(self, model: Model, infer: Any) -> None:
        """`infer` has one of the forms in `worker.models`; ModelUnfit where it has none."""
        self._model = model
        self._accepts = accepted(model, infer)
        self._form = shaped(model, infer)
        self._hooks = Hooks(infer)
        torch = sys.modules.get("torch")
        self._inference: Callable[[], contextlib.AbstractContextManager[object]] = (
            torch.inference_mode if torch else contextlib.nullcontext
        )

    @classmethod
    def load(cls, model: Model, torch_threads: int, weights: Weights | None = None) -> "Runner":
        """Import the model's file and build its class; raises whatever that raises."""
        module = importlib.import_module(model.implementation)
        # Only where the model has brought torch along: a worker without such models is small.
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(torch_threads)
        make = getattr(module, "Infer", None)
        if not callable(make):
            raise ModelUnfit(f"{model.implementation}: has no class Infer")
        return cls(model, construct(model, make, weights))

    @property
    def accepts(self) -> Accepts:
        """What the model gets for one input."""
        return self._accepts

    @property
    def reads_files(self) -> bool:
        """Whether the model takes its inputs as files, so that none need be in memory."""
        return self._accepts == "file"

    @property
    def reports_progress(self) -> bool:
        """Whether the model is called with a context for each item."""
        return self._model.reports_progress

    def cost(self, item: Any) -> float:
        """What a prepared item takes of a batch, in the model's own unit."""
        return self._hooks.cost(self._form.bare(item))

    def sample(self) -> Any | None:
        """A prepared item to try the model with, if it has one to offer."""
        return self._hooks.sample()

    def memory_bytes(self, cost: float) -> int:
        """See `worker.memory.device.Holder`."""
        return self._hooks.memory_bytes(cost)

    def close(self) -> None:
        """The model is not called any more; its memory goes with the last who holds it."""
        self._hooks.close()

    def prepare(self, data: bytes, media_type: str, parameters: Parameters = _NONE) -> Any:
        """Decode and preprocess one input: what a batch is made of."""
        if self.reads_files:
            return self.prepare_file(io.BytesIO(data), media_type, parameters)
        decoded = self._decoded(data, self._checked(media_type))
        with self._inference():
            return self._form.preprocess(decoded, parameters)

    def prepare_file(
        self, file: io.BufferedIOBase, media_type: str, parameters: Parameters = _NONE
    ) -> Any:
        """The same for a model that reads files; the file is closed afterwards."""
        with file, self._inference():
            self._checked(media_type)
            return self._form.preprocess(file, parameters)

    def run(self, batch: list[Any], contexts: Sequence[Context] = ()) -> Sequence[Any]:
        """One pass of the model: an output for each item, in their order."""
        with self._inference():
            return checked(self._form.run(batch, contexts), len(batch))

    def finish(self, output: Any) -> results.Result:
        """The result that an output of `run` comes to, in the entry's media type."""
        with self._inference():
            result = self._form.postprocess(output)
        return results.written(result, self._model.result_media_type)

    def _checked(self, media_type: str) -> str:
        bare_type = media.essence(media_type)
        if bare_type not in self._model.media_types:
            raise UnsupportedMediaType(
                f"{self._model.name} does not take {bare_type}; "
                f"send one of {', '.join(self._model.media_types)}"
            )
        return bare_type

    def _decoded(self, data: bytes, media_type: str) -> Any:
        match self._accepts:
            case "image":
                return pictures.decode(data, media_type, self._model.max_pixels)
            case "audio":
                return audio.decode(data)
            case "text":
                return texts.decode(data)
            case "json":
                return texts.parse_json(data)
            case "tensor":
                return tensors.decode(data, media_type)
        return data
