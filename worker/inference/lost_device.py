"""Whether a device is lost to this process: errors after which each further call fails, too.

CUDA documents for some errors that the process must be started anew; `cudaGetErrorString` has
their texts. Others leave it open: cuBLAS and cuDNN report a failure of their own where a kernel
before them has faulted, but also where only their call was bad. Then a tiny kernel decides. Out of
memory is never one of them.
"""

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum

from worker.memory.errors import wants_memory

# cudaError_t, from driver_types.h: "the process must be terminated and relaunched", and hardware.
_STICKY = {
    214: "uncorrectable ECC error encountered",
    220: "uncorrectable NVLink error detected during the execution",
    226: "Invalid access of peer GPU memory over nvlink or a hardware error",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    810: "the MPS client has been terminated by the server",
    911: "an async error has occured in external entity outside of CUDA",
}
_STICKY_TEXTS = frozenset(text.lower() for text in _STICKY.values())

# How torch, Triton and the libraries below them begin what they say of the device.
_OF_THE_DEVICE = re.compile(
    r"(?:CUDA error|CUDA driver error|CUDA runtime error[^:]*|Triton Error \[CUDA\]|cuDNN error"
    r"|cuda runtime error \(\d+\)|HIP error)\s*:\s*(.*)",
    re.IGNORECASE,
)
_LIBRARY_FAILED = re.compile(r"\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT)_(?:STATUS_)?[A-Z]+")
# Who wraps an error in an error keeps it short of this.
_DEEPEST_CAUSE = 10


class Verdict(Enum):
    """What an error says of the device."""

    FINE = "fine"
    LOST = "lost"
    ASK = "ask"


def is_device_lost(error: BaseException, computes: Callable[[], bool] | None = None) -> bool:
    """Whether this error, or one that it was raised from, means that the process must go.

    `computes` decides where the error alone does not; by default a tiny kernel.
    """
    verdicts = {verdict_of(cause) for cause in causes(error)}
    if Verdict.LOST in verdicts:
        return True
    return Verdict.ASK in verdicts and not (computes or device_computes)()


def verdict_of(error: BaseException) -> Verdict:
    """What this error alone says, by its code where it has one, else by its text."""
    if not isinstance(error, RuntimeError) or wants_memory(error):
        return Verdict.FINE
    # On torch.AcceleratorError: the cudaError_t.
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return Verdict.LOST if code in _STICKY else Verdict.ASK
    return _verdict_of_text(str(error))


def device_computes() -> bool:
    """Whether a tiny kernel still runs."""
    try:
        run_tiny_kernel()
    except RuntimeError:
        return False
    return True


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    cause: BaseException | None = error
    for _ in range(_DEEPEST_CAUSE):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def run_tiny_kernel() -> None:
    """Compute something on the device that models use here, and wait for it; raises as torch does.

    Does not wake a GPU that no model of this process has used. One that is full is well.
    """
    if torch := sys.modules.get("torch"):
        device = "cuda" if torch.cuda.is_initialized() else "cpu"
        try:
            torch.ones(1, device=device).add_(1).item()
        except RuntimeError as error:
            if verdict_of(error) is not Verdict.FINE:
                raise


def _verdict_of_text(text: str) -> Verdict:
    said = _OF_THE_DEVICE.search(text)
    if said is None and not _LIBRARY_FAILED.search(text):
        return Verdict.FINE
    about = said[1].strip() if said else text
    return Verdict.LOST if about.lower() in _STICKY_TEXTS else Verdict.ASK
