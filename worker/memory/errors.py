"""When memory runs out: one question for a card, for the CPU as a card, and for the host."""

import sys


class BudgetExceeded(MemoryError):
    """The CPU as a card has less memory left than was asked for."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory. Does not bring torch where no model has."""
    torchs = getattr(sys.modules.get("torch"), "OutOfMemoryError", ())
    return isinstance(error, (MemoryError, torchs))
