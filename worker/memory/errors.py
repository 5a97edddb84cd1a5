"""When memory runs out: one question for a card, for the CPU as a card, and for the host."""

import re
import sys

# torch has a class for it where its own allocator of a card runs out. Where the host's does, a
# library's workspace or a kernel's code finds no room, it raises a RuntimeError that says so.
_SAYS = re.compile(
    r"\b(?:CUDA|HIP|cuda runtime error)\b[^\n]*\bout of memory"
    r"|\b(?:CU|HIP|MIO)[A-Z]+_(?:[A-Z]+_)*ALLOC(?:ATION)?_FAILED"
    r"|DefaultCPUAllocator: [^\n]*\bmemory"
)
_CUDA_CODE = 2


class BudgetExceeded(MemoryError):
    """The CPU as a card has less memory left than was asked for."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it was raised for want of memory, itself or what caused it.

    Does not bring torch where no model has.
    """
    while error is not None:
        if wants_memory(error):
            return True
        error = error.__cause__
    return False


def wants_memory(error: BaseException) -> bool:
    """The same of this error alone, by its code where it has one, else by its text."""
    torchs = getattr(sys.modules.get("torch"), "OutOfMemoryError", ())
    if isinstance(error, (MemoryError, torchs)):
        return True
    # On torch.AcceleratorError: the cudaError_t.
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return code == _CUDA_CODE
    return isinstance(error, RuntimeError) and _SAYS.search(str(error)) is not None
