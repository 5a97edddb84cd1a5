"""Test that the code and the text of a PyTorch error show whether the device is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidInput
from worker.memory.device_errors import (
    BudgetExceeded,
    DeviceState,
    device_state,
    is_device_lost,
    is_out_of_memory,
)

ASYNC = (
    "\nSearch for `{}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html "
    "for more information.\nCUDA kernel errors might be asynchronously reported at some other API "
    "call, so the stacktrace below might be incorrect.\nFor debugging consider passing "
    "CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
OTHERWISE = "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"


class AcceleratorError(RuntimeError):
    """An error like torch.AcceleratorError: a RuntimeError with an error code of CUDA."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.error_code = code


TEXTS = {
    # From torch's CUDA calls, in this and in earlier versions.
    DeviceState.LOST: [
        "CUDA error: device-side assert triggered" + ASYNC.format("cudaErrorAssert"),
        "CUDA error: an illegal memory access was encountered" + ASYNC,
        "CUDA error: unspecified launch failure" + ASYNC,
        "CUDA error: misaligned address" + ASYNC,
        "CUDA error: an illegal instruction was encountered" + ASYNC,
        "CUDA error: invalid program counter" + ASYNC,
        "CUDA error: hardware stack error" + ASYNC,
        "CUDA error: the launch timed out and was terminated" + ASYNC,
        "CUDA error: uncorrectable ECC error encountered" + OTHERWISE,
        "CUDA error: uncorrectable NVLink error detected during the execution" + ASYNC,
        "cuda runtime error (59) : device-side assert triggered",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA driver error: device-side assert triggered",
    ],
    # A bad call or a lost device: a kernel has to decide.
    DeviceState.UNKNOWN: [
        "CUDA error: unknown error" + ASYNC,
        "CUDA error: invalid argument" + ASYNC,
        "CUDA error: no kernel image is available for execution on the device" + ASYNC,
        "CUDA error: too many resources requested for launch" + ASYNC,
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate`",
    ],
    # Not about the device.
    DeviceState.FINE: [
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "Expected all tensors to be on the same device, but found at least two devices",
        "the input mentions a device-side assert triggered elsewhere",
        "the memory of elephants",
        "this model ran out of memory cells",
        "",
    ],
}
# Memory runs out, and is free again later.
OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total of …",
    "CUDA error: out of memory" + ASYNC.format("cudaErrorMemoryAllocation"),
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "cuda runtime error (2) : out of memory at /pytorch/THCGeneral.cpp:50",
]

CODES = {
    DeviceState.LOST: [700, 710, 719, 214, 220],
    DeviceState.UNKNOWN: [1, 46, 209, 999],
    DeviceState.FINE: [2],
}


@pytest.mark.parametrize(
    ("text", "verdict"), [(text, verdict) for verdict, texts in TEXTS.items() for text in texts]
)
def test_text_of_an_error_tells_the_state(text: str, verdict: DeviceState) -> None:
    assert device_state(RuntimeError(text)) is verdict
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_text_tells_out_of_memory(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))
    assert device_state(RuntimeError(text)) is DeviceState.FINE


def test_class_or_cause_tells_out_of_memory() -> None:
    assert is_out_of_memory(BudgetExceeded("no"))
    assert is_out_of_memory(MemoryError())
    wrapped = RuntimeError("the model raised")
    wrapped.__cause__ = BudgetExceeded("no")
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    ("code", "verdict"), [(code, verdict) for verdict, codes in CODES.items() for code in codes]
)
def test_code_has_precedence_over_the_text(code: int, verdict: DeviceState) -> None:
    error = AcceleratorError(code, "CUDA error: device-side assert triggered")
    assert device_state(error) is verdict


@pytest.mark.torch
def test_out_of_memory_is_never_a_lost_device() -> None:
    torch = pytest.importorskip("torch")
    error = torch.OutOfMemoryError("CUDA error: unspecified launch failure")
    assert device_state(error) is DeviceState.FINE
    assert is_out_of_memory(error)
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value), "for host memory, torch raises a RuntimeError"


def test_other_classes_are_no_lost_device() -> None:
    assert device_state(ValueError("CUDA error: device-side assert triggered")) is DeviceState.FINE


@pytest.mark.parametrize("computes", [True, False])
def test_computation_decides_if_the_error_is_ambiguous(computes: bool) -> None:
    error = RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")
    assert is_device_lost(error, lambda: computes) is not computes


def test_clear_error_needs_no_computation() -> None:
    def never() -> bool:
        raise AssertionError

    assert is_device_lost(AcceleratorError(700, ""), never)
    assert not is_device_lost(RuntimeError("shapes differ"), never)


def test_cause_of_an_error_counts() -> None:
    def careless() -> None:
        try:
            raise AcceleratorError(710, "CUDA error: device-side assert triggered")
        except RuntimeError:
            raise InvalidInput("the text is too long")  # noqa: B904  what careless code does

    with pytest.raises(InvalidInput) as raised:
        careless()
    assert is_device_lost(raised.value, lambda: True)


def test_errors_that_cause_each_other_end_the_search() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not is_device_lost(one, lambda: False)


@given(st.text())
def test_any_text_has_a_state(text: str) -> None:
    assert device_state(RuntimeError(text)) in DeviceState


@pytest.mark.torch
def test_computation_succeeds_on_this_machine() -> None:
    torch = pytest.importorskip("torch")
    assert not is_device_lost(RuntimeError("CUDA error: invalid argument"))
    # The device state depends on these classes.
    assert issubclass(torch.AcceleratorError, RuntimeError)
    assert issubclass(torch.OutOfMemoryError, RuntimeError)
