"""Loads models with their weights, and remembers what is wrong with one that cannot be."""

from contract.catalogue import Model
from worker.errors import ModelFailed, ModelUnusable
from worker.inference.runner import Runner
from worker.weights.library import Library


class Loader:
    """One for a worker. Each model is loaded by its own thread; anybody may ask for problems."""

    def __init__(self, library: Library, torch_threads: int) -> None:
        self._library = library
        self._torch_threads = torch_threads
        self._problems: dict[str, ModelUnusable] = {}

    def load(self, model: Model) -> Runner:
        """The model, ready to run; raises ModelUnusable."""
        try:
            runner = Runner.load(model, self._torch_threads, self._library.get(model))
        except ModelUnusable as error:
            self._problems[model.name] = error
            raise
        except Exception as error:
            # A model's code may raise anything.
            failed = ModelFailed(f"{model.implementation} raised {type(error).__name__}")
            self._problems[model.name] = failed
            raise failed from error
        self._problems.pop(model.name, None)
        return runner

    def problem(self, name: str) -> dict[str, str] | None:
        """Why this model could not be loaded when it was last tried; None where it could."""
        error = self._problems.get(name)
        return None if error is None else {"code": error.code, "detail": str(error)}
