"""Loads models with their weights; whatever their code raises is a ModelUnusable."""

from contract.catalogue import Model
from worker.errors import ModelFailed, ModelUnusable
from worker.inference.runner import Runner
from worker.weights.library import Library


class Loader:
    """One for a worker. Each model is loaded by its own thread."""

    def __init__(self, library: Library, torch_threads: int) -> None:
        self._library = library
        self._torch_threads = torch_threads

    def load(self, model: Model) -> Runner:
        """The model, ready to run; raises ModelUnusable."""
        try:
            return Runner.load(model, self._torch_threads, self._library.get(model))
        except ModelUnusable:
            raise
        except (Exception, SystemExit) as error:
            # A model's code may raise anything, and exit.
            raise ModelFailed(f"{model.implementation} raised {type(error).__name__}") from error
