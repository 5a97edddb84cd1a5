"""A model's first batches: slower than all others, and measured, before any job comes."""

import logging
from typing import Any

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

    Does nothing for a model without one. Of those that were measured at an earlier start only the
    first is run. Raises what the model raises on one sample.
    """
    sample = runner.sample()
    if sample is None:
        return
    unit_cost = runner.cost(sample)
    for count in _sizes(model.max_batch_size):
        cost = unit_cost * count
        is_measured = allowance.is_measured(cost)
        if is_measured and count > 1:
            continue
        if cost > allowance.fitting_cost:
            _log.info("%s: batches of %d would not fit", model.name, count)
            return
        try:
            with allowance.running(cost) if is_measured else allowance.trial(cost):
                _run(model, runner, [sample] * count)
        except Exception as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            allowance.exceeded(cost, cost / 2)
            return


def run_once(model: Model, runner: Runner) -> None:
    """Run the model's sample where nothing is measured: the first pass is slow, and may raise."""
    if (sample := runner.sample()) is not None:
        _run(model, runner, [sample])


def _run(model: Model, runner: Runner, batch: list[Any]) -> None:
    runner.run(batch, [Unheard()] * len(batch) if model.reports_progress else [])


def _sizes(largest: int) -> list[int]:
    sizes = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*sizes, largest]
