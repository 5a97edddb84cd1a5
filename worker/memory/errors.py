"""When memory runs out: one question for a card, for the CPU as a card, and for the host."""

import sys


class BudgetExceeded(MemoryError):
    """The CPU as a card has less memory left than was asked for."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it was raised for want of memory, itself or what caused it.

    Does not bring torch where no model has.
    """
    torchs = getattr(sys.modules.get("torch"), "OutOfMemoryError", ())
    while error is not None:
        if isinstance(error, (MemoryError, torchs)):
            return True
        error = error.__cause__
    return False
