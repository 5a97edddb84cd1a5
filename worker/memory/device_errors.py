"""Find out from an error whether the device is out of memory or lost.

A device is lost if every further call fails until the process is restarted. CUDA's documentation
lists these errors, and `cudaGetErrorString` returns their texts. Some errors, for example of
cuBLAS, do not show whether the device is lost. Then a very small computation tests it.
"""

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum

# If torch's own allocator for the GPU runs out of memory, torch raises a special class. For the
# host's memory, a library's workspace and a kernel's code, it raises a RuntimeError with one of
# these texts.
_OUT_OF_MEMORY_TEXT = re.compile(
    r"\b(?:CUDA|HIP|cuda runtime error)\b[^\n]*\bout of memory"
    r"|\b(?:CU|HIP|MIO)[A-Z]+_(?:[A-Z]+_)*ALLOC(?:ATION)?_FAILED"
    r"|DefaultCPUAllocator: [^\n]*\bmemory"
)
_CUDA_OUT_OF_MEMORY = 2

# The values of cudaError_t for which driver_types.h says "the process must be terminated and
# relaunched", and those for hardware faults.
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

# How error messages about the device begin in torch, in Triton and in the libraries that they use.
_DEVICE_MESSAGE = re.compile(
    r"(?:CUDA error|CUDA driver error|CUDA runtime error[^:]*|Triton Error \[CUDA\]|cuDNN error"
    r"|cuda runtime error \(\d+\)|HIP error)\s*:\s*(.*)",
    re.IGNORECASE,
)
_LIBRARY_FAILED = re.compile(r"\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT)_(?:STATUS_)?[A-Z]+")
# Longer chains of causes are not followed.
_MAX_CAUSES = 10


class DeviceState(Enum):
    """What an error shows about the state of the device."""

    FINE = "fine"
    LOST = "lost"
    UNKNOWN = "unknown"


def is_device_lost(error: BaseException, computes: Callable[[], bool] | None = None) -> bool:
    """Return whether an error or a cause means this. `computes` decides if they do not show it."""
    states = {device_state(cause) for cause in error_chain(error)}
    if DeviceState.LOST in states:
        return True
    return DeviceState.UNKNOWN in states and not (computes or device_computes)()


def device_state(error: BaseException) -> DeviceState:
    """Return what this error shows about the device, by its code, or else by its text."""
    if not isinstance(error, RuntimeError) or means_out_of_memory(error):
        return DeviceState.FINE
    # torch.AcceleratorError has the cudaError_t as an attribute.
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return DeviceState.LOST if code in _STICKY else DeviceState.UNKNOWN
    text = str(error)
    found = _DEVICE_MESSAGE.search(text)
    if found is None and not _LIBRARY_FAILED.search(text):
        return DeviceState.FINE
    message = found[1].strip() if found else text
    return DeviceState.LOST if message.lower() in _STICKY_TEXTS else DeviceState.UNKNOWN


def device_computes() -> bool:
    """Return whether the device can still run a very small computation."""
    try:
        run_tiny_kernel()
    except RuntimeError:
        return False
    return True


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then its cause, then the cause of that cause, and so on."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def run_tiny_kernel() -> None:
    """Run a very small computation on the used device. Raises RuntimeError if it has failed."""
    if torch := sys.modules.get("torch"):
        device = "cuda" if torch.cuda.is_initialized() else "cpu"
        try:
            torch.ones(1, device=device).add_(1).item()
        except RuntimeError as error:
            if device_state(error) is not DeviceState.FINE:
                raise


class BudgetExceeded(MemoryError):
    """A model or a batch needs more memory than is reserved or available."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that memory ran out."""
    while error is not None:
        if means_out_of_memory(error):
            return True
        error = error.__cause__
    return False


def means_out_of_memory(error: BaseException) -> bool:
    """Return whether this error alone means that memory ran out, by class, code or text."""
    torch_error = getattr(sys.modules.get("torch"), "OutOfMemoryError", ())
    if isinstance(error, (MemoryError, torch_error)):
        return True
    # torch.AcceleratorError has the cudaError_t as an attribute.
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return code == _CUDA_OUT_OF_MEMORY
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY_TEXT.search(str(error)) is not None
