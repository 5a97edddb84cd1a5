"""Run a torch network on a device, and copy the next inputs to the device at the same time.

    class Infer:
        def __init__(self, precision: str = "float32", compiler: str = "") -> None:
            self._network = Network(build(), precision=precision, compiler=compiler)

        def preprocess(self, item: Image) -> Tensor:
            return self._network.stage(to_tensor(item))      # CPU threads: start the copy

        def __call__(self, batch: list[Tensor]) -> list[Tensor]:
            return list(self._network(batch))                # device thread: stack, run, fetch

On a GPU, `stage` copies an item through pinned memory on a separate CUDA stream, while the previous
batch runs.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.errors import ModelUnfit

_log = logging.getLogger(__name__)

PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Tensors of these types are not converted. Bytes of images and all fractions are converted to the
# network's precision.
_NUMBERS: Final = frozenset({torch.int32, torch.int64})


class Network:
    """A torch module that runs on a device.

    Any thread may call `stage`. Only the device thread may call the other methods.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        precision: str = "float32",
        part: str = "",
        compiler: str = "",
        device: torch.device | None = None,
    ) -> None:
        """Move the module to the device, by default CUDA if it is available.

        Args:
            precision: One of `PRECISIONS`, or ModelUnfit is raised. The CPU always uses float32,
                because half precision is not faster there.
            part: The only submodule that uses the precision; empty for the whole module.
            compiler: A backend of torch.compile, or empty. With a compiler, the first call for each
                shape of a batch is slow.
        """
        if precision not in PRECISIONS:
            raise ModelUnfit(
                f"options.precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}"
            )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        is_gpu = self.device.type == "cuda"
        dtype = PRECISIONS[precision] if is_gpu else torch.float32
        if dtype is not PRECISIONS[precision]:
            _log.info("without a GPU, the network computes in %s instead of %s", dtype, precision)
        self.dtype = torch.float32 if part else dtype
        module = module.eval().to(self.device, self.dtype, memory_format=_layout(module))  # type: ignore[call-overload]  # torch's stubs lack this form
        if part:
            setattr(module, part, InPrecision(getattr(module, part), dtype))
        self._module: Callable[[Any], Any] = module
        if compiler:
            self._module = torch.compile(module, backend=compiler)
        self._streams = _streams_of_this_thread(self.device) if is_gpu else None

    def stage(self, item: Tensor) -> Tensor:
        """Start to copy one item to the GPU, and return the copy. On the CPU, return the item."""
        return item if self._streams is None else self._streams.send(item)

    def __call__(self, batch: Sequence[Tensor]) -> Any:
        """Stack items of one shape, and run the network. Return its outputs in host memory."""
        return self._run(batch, self._stacked)

    def each(self, batch: Sequence[Tensor]) -> Any:
        """Run a network whose input is a list of items of any shape, for example a detector."""
        return self._run(batch, lambda items: [item.to(self._dtype_of(item)) for item in items])

    def _run(self, batch: Sequence[Tensor], given: Callable[[list[Tensor]], Any]) -> Any:
        with torch.inference_mode():
            if self._streams is None:
                return _in_host_memory(self._module(given(list(batch))))
            with self._streams.computing(batch) as items:
                output = self._module(given(items))
                self._streams.wait()
                return _in_host_memory(output)

    def _stacked(self, items: list[Tensor]) -> Tensor:
        stacked = torch.stack(items)
        layout = torch.channels_last if stacked.dim() == 4 else torch.contiguous_format
        return stacked.to(self._dtype_of(stacked), memory_format=layout)

    def _dtype_of(self, given: Tensor) -> torch.dtype:
        # Integers are indices, for example of words. Half precision would round them.
        return given.dtype if given.dtype in _NUMBERS else self.dtype


class InPrecision(nn.Module):
    """Runs one submodule of a network in a given precision. Inputs and outputs are float32."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._inner = inner.to(dtype)
        self._dtype = dtype

    def forward(self, given: Tensor) -> Any:
        """Run the submodule, and return its tensor, or its tensors by name, in float32."""
        found = self._inner(given.to(self._dtype))
        if isinstance(found, Tensor):
            return found.float()
        return {name: each.float() for name, each in found.items()}


def describe_classes(scores: Tensor, names: Sequence[str], count: int = 5) -> dict[str, object]:
    """Return label, index and score of the most likely classes, best class first."""
    best = scores.softmax(dim=0).topk(min(count, len(names)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    labels = [
        {"label": names[index], "index": index, "score": round(score, 6)} for score, index in pairs
    ]
    return {"labels": labels}


def _layout(module: nn.Module) -> torch.memory_format:
    """Return the memory format for a network: channels last for image networks."""
    # With channels last, convolutions are 20 % faster on the CPU and can use a GPU's tensor cores.
    # torch refuses it for weights with five dimensions, for example in video networks.
    held = chain(module.parameters(), module.buffers())
    is_flat = all(tensor.dim() <= 4 for tensor in held)
    return torch.channels_last if is_flat else torch.preserve_format


_thread_streams = threading.local()


def _streams_of_this_thread(device: torch.device) -> "_GpuStreams":
    """Return the CUDA streams that all networks of this thread share.

    For each thread and stream, torch creates a cuBLAS workspace of up to 32 MiB and never frees it.
    """
    streams: _GpuStreams | None = getattr(_thread_streams, str(device), None)
    if streams is None:
        streams = _GpuStreams(device)
        setattr(_thread_streams, str(device), streams)
    streams.follow()
    return streams


class _GpuStreams:
    """Two CUDA streams of a GPU: one for copies, and one for computation."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda  # its streams and events have no type hints
        self._device = device
        self._copying = cuda.Stream(device)
        self._computing = cuda.Stream(device)
        # With a blocking event, the thread sleeps. By default, CUDA would occupy a processor.
        self._done = cuda.Event(blocking=True)

    def follow(self) -> None:
        """Make the computing stream wait for the weights, which the current stream copies."""
        self._computing.wait_stream(torch.cuda.current_stream(self._device))

    def send(self, item: Tensor) -> Tensor:
        """Start to copy an item to the GPU. Without memory, return it in pinned host memory."""
        pinned = item.pin_memory()
        try:
            with torch.cuda.stream(self._copying):
                # torch does not reuse the pinned memory before the copy has ended.
                return pinned.to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return pinned

    # The caller must not delete the copies before the block ends. Otherwise, the copying stream
    # could reuse their memory while the computing stream still reads it.
    @contextlib.contextmanager
    def computing(self, batch: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Copy the items to the device, and run the block with them on the computing stream."""
        with torch.cuda.stream(self._computing):
            self._computing.wait_stream(self._copying)
            yield [item.to(self._device, non_blocking=True) for item in batch]

    def wait(self) -> None:
        """Sleep until the computing stream has finished. Raises the errors of the computation."""
        self._done.record(self._computing)
        self._done.synchronize()


def _in_host_memory(output: Any) -> Any:
    """Copy all tensors of an output to host memory, in float32 if they have half precision."""
    if isinstance(output, Tensor):
        host = output.cpu()
        return host.float() if host.dtype in (torch.float16, torch.bfloat16) else host
    if isinstance(output, Mapping):
        return {key: _in_host_memory(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_in_host_memory(value) for value in output]
    return output
