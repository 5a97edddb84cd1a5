"""Whether a model is in memory, and bringing it there."""

import logging
import threading
import time
from collections.abc import Callable

from contract.catalogue import Model
from worker.inference.runner import Runner
from worker.memory.allowance import Allowance
from worker.memory.gate import Gate
from worker.remote.backoff import Backoff

_log = logging.getLogger(__name__)


class Residence:
    """One model's place in memory: `runner` is there while the model is loaded."""

    def __init__(self, model: Model, load: Callable[[Model], Runner]) -> None:
        self._model = model
        self._load = load
        self._runner: Runner | None = None
        self.allowance = Allowance(model.name, Gate())

    @property
    def runner(self) -> Runner | None:
        """The loaded model. It may come and go: take it once for what belongs together."""
        return self._runner

    def admits(self) -> bool:
        """See Admission: jobs may be received once the model can be called."""
        return self._runner is not None

    def load(self, stopping: threading.Event) -> None:
        """Load the model, trying on until it works or this worker is leaving."""
        backoff, begun = Backoff(first_seconds=1.0, limit_seconds=60.0), time.monotonic()
        while not stopping.is_set():
            try:
                self._runner = self._load(self._model)
            except Exception:  # noqa: BLE001  the edge: a model's code may raise anything
                _log.exception("%s: the model cannot be loaded, trying on", self._model.name)
                stopping.wait(backoff.next())
            else:
                seconds = time.monotonic() - begun
                _log.info("%s: loaded in %.1f s", self._model.name, seconds)
                return
