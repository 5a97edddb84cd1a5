"""A torch network at work: on its device, in its precision, fed while it computes.

    class Infer:
        def __init__(self, precision: str = "float32", compiler: str = "") -> None:
            self._network = Network(build(), precision=precision, compiler=compiler)

        def preprocess(self, item: Image) -> Tensor:
            return self._network.stage(to_tensor(item))      # CPU threads: its way there begins

        def __call__(self, batch: list[Tensor]) -> list[Tensor]:
            return list(self._network(batch))                # device thread: stack, run, fetch

On a GPU, what is staged goes into pinned memory and from there to the device on a stream of its
own, while the batch before it still runs. The network has another stream; the device thread sleeps
until it is done. On the CPU all of this is left out: there is nothing to copy.
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
# These stay as they are; pictures' bytes and all fractions take the network's precision.
_NUMBERS: Final = frozenset({torch.int32, torch.int64})


class Network:
    """One module on one device. `stage` is for any thread, calls are for the device thread."""

    def __init__(
        self,
        module: nn.Module,
        *,
        precision: str = "float32",
        part: str = "",
        compiler: str = "",
        device: torch.device | None = None,
    ) -> None:
        """Move the module to the device: CUDA where there is one.

        `precision` is a key of PRECISIONS. Half precision is a GPU's: a CPU, which gains nothing by
        it, stays with float32, so that one entry serves both. `part` names the one attribute of the
        module that is in this precision, where the rest needs all of float32. `compiler` names a
        backend of torch.compile, "inductor" mostly; the first call with each kind of batch is slow
        then.
        """
        if precision not in PRECISIONS:
            raise ModelUnfit(f"options.precision: {precision!r} is not {', '.join(PRECISIONS)}")
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        is_gpu = self.device.type == "cuda"
        dtype = PRECISIONS[precision] if is_gpu else torch.float32
        if dtype is not PRECISIONS[precision]:
            _log.info("there is no GPU: %s instead of %s", dtype, precision)
        self.dtype = torch.float32 if part else dtype
        module = module.eval().to(self.device, self.dtype, memory_format=_layout(module))  # type: ignore[call-overload]  # torch's stubs lack this form
        if part:
            setattr(module, part, InPrecision(getattr(module, part), dtype))
        self._module: Callable[[Any], Any] = module
        if compiler:
            self._module = torch.compile(module, backend=compiler)
        self._lane = _lane_of_this_thread(self.device) if is_gpu else None

    def stage(self, item: Tensor) -> Tensor:
        """Let one prepared item set out for the device; gives what a batch is made of.

        Where the device is full it stays in the host's memory: then the batch, which may be split,
        has to find room, and no job fails for having been prepared early.
        """
        return item if self._lane is None else self._lane.send(item)

    def __call__(self, batch: Sequence[Tensor]) -> Any:
        """Run items of one shape as one stacked batch.

        Gives the outputs in host memory, where half precision has become float32.
        """
        return self._run(batch, self._stacked)

    def each(self, batch: Sequence[Tensor]) -> Any:
        """The same for a module that takes a list of items, such as torchvision's detectors."""
        return self._run(batch, self._listed)

    def _run(self, batch: Sequence[Tensor], given: Callable[[list[Tensor]], Any]) -> Any:
        with torch.inference_mode():
            if self._lane is None:
                return _in_host_memory(self._module(given(list(batch))))
            with self._lane.received(batch) as items:
                output = self._module(given(items))
                self._lane.wait()
                return _in_host_memory(output)

    def _stacked(self, items: list[Tensor]) -> Tensor:
        stacked = torch.stack(items)
        layout = torch.channels_last if stacked.dim() == 4 else torch.contiguous_format
        return stacked.to(self._dtype_of(stacked), memory_format=layout)

    def _listed(self, items: list[Tensor]) -> list[Tensor]:
        return [item.to(self._dtype_of(item)) for item in items]

    def _dtype_of(self, given: Tensor) -> torch.dtype:
        # What a text's words are numbered by are no measures: a network looks them up.
        return given.dtype if given.dtype in _NUMBERS else self.dtype


class InPrecision(nn.Module):
    """A part of a network in a precision of its own, of which those around it see nothing."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._inner = inner.to(dtype)
        self._dtype = dtype

    def forward(self, given: Tensor) -> Any:
        """Float32 in, float32 out: one tensor, or several by name."""
        found = self._inner(given.to(self._dtype))
        if isinstance(found, Tensor):
            return found.float()
        return {name: each.float() for name, each in found.items()}


def _layout(module: nn.Module) -> torch.memory_format:
    """Channels last: convolutions are a fifth faster on CPU, and use a GPU's tensor cores.

    Only for networks of pictures: torch refuses it for the kernels of volumes and videos.
    """
    held = chain(module.parameters(), module.buffers())
    is_flat = all(tensor.dim() <= 4 for tensor in held)
    return torch.channels_last if is_flat else torch.preserve_format


_lanes = threading.local()


def _lane_of_this_thread(device: torch.device) -> "_Lane":
    """One for all networks that a thread makes, one after the other or side by side.

    torch keeps what cuBLAS works with, up to 32 MiB, for each thread and stream for good: a model
    that comes and goes would leave as much behind each time.
    """
    lane: _Lane | None = getattr(_lanes, str(device), None)
    if lane is None:
        lane = _Lane(device)
        setattr(_lanes, str(device), lane)
    lane.follow()
    return lane


class _Lane:
    """The way to a GPU and back: a stream that copies, and one that computes."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda  # whose streams and events have no types
        self._device = device
        self._copying = cuda.Stream(device)
        self._computing = cuda.Stream(device)
        # Waiting for it lets the thread sleep, where CUDA by default spins on a processor.
        self._done = cuda.Event(blocking=True)

    def follow(self) -> None:
        """Compute nothing before what the current stream was given: there the weights came."""
        self._computing.wait_stream(torch.cuda.current_stream(self._device))

    def send(self, item: Tensor) -> Tensor:
        """Copy an item without waiting for it."""
        pinned = item.pin_memory()
        try:
            with torch.cuda.stream(self._copying):
                # The pinned memory is not used again before the copy is through: torch sees to it.
                return pinned.to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return pinned

    @contextlib.contextmanager
    def received(self, batch: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """The items on the device, for work on the computing stream within the block.

        Items live until the batch is over, so that the copying stream cannot use their memory
        again while the computing one still reads it.
        """
        with torch.cuda.stream(self._computing):
            self._computing.wait_stream(self._copying)
            yield [item.to(self._device, non_blocking=True) for item in batch]

    def wait(self) -> None:
        """Sleep until all that was asked for is computed; what went wrong there is raised here."""
        self._done.record(self._computing)
        self._done.synchronize()


def _in_host_memory(output: Any) -> Any:
    """Tensors, however they are gathered, on the CPU; what is in half precision as float32."""
    if isinstance(output, Tensor):
        host = output.cpu()
        return host.float() if host.dtype in (torch.float16, torch.bfloat16) else host
    if isinstance(output, Mapping):
        return {key: _in_host_memory(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_in_host_memory(value) for value in output]
    return output
