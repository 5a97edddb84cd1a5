"""A model's first batches: what they take of the device is measured before any job comes."""

import logging

from contract.catalogue import Model
from worker.inference.runner import Runner
from worker.memory.allowance import MeasuredAllowance
from worker.memory.errors import is_out_of_memory

_log = logging.getLogger(__name__)


class Unheard:
    """The context of a batch that is nobody's job. See Context."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """See Context."""

    def check(self) -> None:
        """See Context."""


def warm_up(model: Model, runner: Runner, allowance: MeasuredAllowance) -> None:
    """Run the model's sample in batches of 1, 2, 4 … up to full ones, as far as they fit.

    Does nothing for a model without one, and for batches that were measured at an earlier start.
    Raises what the model raises on one sample.
    """
    sample = runner.sample()
    if sample is None:
        return
    unit_cost = runner.cost(sample)
    for count in _sizes(model.max_batch_size):
        cost = unit_cost * count
        if allowance.is_measured(cost):
            continue
        if cost > allowance.fitting_cost:
            _log.info("%s: batches of %d would not fit", model.name, count)
            return
        contexts = [Unheard()] * count if model.reports_progress else []
        try:
            with allowance.trial(cost):
                runner.run([sample] * count, contexts)
        except Exception as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            allowance.exceeded(cost, cost / 2)
            return


def _sizes(largest: int) -> list[int]:
    sizes = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*sizes, largest]
