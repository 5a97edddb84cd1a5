"""Run an ONNX model on the CPU. The weights are the ONNX file (docs/how-to/models.md).

The names, types and shapes of inputs and outputs come from the graph. Callers send an array as
`.npy` or JSON, or one for each input's name. A graph whose input has three dimensions and one or
three channels also accepts pictures. No code in the file is executed: onnxruntime refuses operators
that it does not contain.
"""

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from worker.errors import InferenceFailed, InvalidInput, ModelUnfit, WeightsDamaged
from worker.models import Weights
from worker.processes.setup import available_processors, torch_threads
from worker.weights.onnx_file import check_single_file

Array = NDArray[Any]
Item = dict[str, Array]
"""One prepared input: an array without the batch dimension for each input of the graph."""

_LABEL_COUNT: Final = 5
_SHOWN_CHARACTERS: Final = 300
# The memory of the first batches is measured. Measuring takes a few milliseconds.
_MEASURED_BATCHES: Final = 3
_WARNINGS_AND_ERRORS: Final = 3
_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({kind})": getattr(np, kind) for kind in ("int8", "int16", "int32", "int64")},
    **{f"tensor({kind})": getattr(np, kind) for kind in ("uint8", "uint16", "uint32", "uint64")},
}


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of the graph, without the batch dimension. None stands for any size."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    is_batched: bool

    @classmethod
    def read(cls, argument: Any) -> "GraphInput":
        """Describe an input that a session of onnxruntime has, or raise ModelUnfit."""
        if (dtype := _TYPES.get(argument.type)) is None:
            raise ModelUnfit(
                f"the graph's input {argument.name} has the type {argument.type}; expected one of "
                f"{', '.join(_TYPES)}"
            )
        sizes = tuple(each if isinstance(each, int) else None for each in argument.shape or ())
        if not sizes or sizes[0] not in (None, 1):
            raise ModelUnfit(
                f"the graph's input {argument.name} has the shape {argument.shape}; expected "
                "the batch as the first dimension, with a dynamic size or the size 1"
            )
        return cls(argument.name, dtype, sizes[1:], sizes[0] is None)

    def check(self, value: Any) -> Array:
        """Return an input of a job as an array of this type and shape, or raise InvalidInput."""
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise InvalidInput(
                f"{self.name}: expected an array of numbers with rows of equal length"
            )
        if array.ndim == len(self.shape) + 1 and array.shape[0] == 1:
            array = array[0]
        fits = array.ndim == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            wanted = " by ".join("any" if each is None else str(each) for each in self.shape)
            found = " by ".join(map(str, array.shape))
            expected = f"an array with the shape {wanted}" if wanted else "one number"
            actual = f"an array with the shape {found}" if found else "one number"
            raise InvalidInput(f"{self.name}: expected {expected}, found {actual}")
        with np.errstate(invalid="ignore", over="ignore"):
            converted = array.astype(self.dtype)
        is_whole = np.issubdtype(self.dtype, np.integer) or self.dtype is np.bool_
        if is_whole and not np.array_equal(converted, array):
            raise InvalidInput(
                f"{self.name}: expected numbers that fit into the type {self.dtype.__name__}"
            )
        return converted


@dataclass(frozen=True, slots=True)
class Picture:
    """The rules that convert a picture to the input of a graph."""

    input: GraphInput
    is_channels_first: bool
    channels: int
    size: tuple[int, int] | None
    mean: Array
    std: Array
    crop: float

    @classmethod
    def read(
        cls, inputs: Sequence[GraphInput], mean: str, std: str, crop: float
    ) -> "Picture | None":
        """Return the rules, or None if the graph takes no pictures. Raises ModelUnfit."""
        if len(inputs) != 1 or len(shape := inputs[0].shape) != 3:
            return None
        is_channels_first = shape[0] in (1, 3)
        channels = shape[0] if is_channels_first else shape[2]
        height, width = shape[1:] if is_channels_first else shape[:2]
        if channels not in (1, 3):
            return None
        return cls(
            inputs[0],
            is_channels_first,
            channels,
            (width, height) if width and height else None,
            _numbers("mean", mean, channels),
            _numbers("std", std, channels),
            crop,
        )

    def convert(self, picture: Image.Image) -> Array:
        """Return the pixels of a picture, resized and normalized, as the graph's input."""
        if self.size is not None:
            border = (1 - self.crop) / 2
            picture = ImageOps.fit(picture, self.size, Image.Resampling.BILINEAR, border)
        pixels = np.asarray(picture.convert("RGB" if self.channels == 3 else "L"))
        pixels = pixels.reshape(*pixels.shape[:2], self.channels)
        if self.input.dtype is not np.uint8:
            pixels = (pixels / np.float32(255) - self.mean) / self.std
        if self.is_channels_first:
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels, dtype=self.input.dtype)


class Infer:
    """Runs the graph of an ONNX file."""

    def __init__(
        self,
        weights: Weights,
        labels: str = "",
        mean: str = "0",
        std: str = "1",
        crop: float = 1.0,
    ) -> None:
        """Read the ONNX file and the labels.

        Args:
            labels: The names of the classes, in the order of the scores in the first output.
                Separated by commas, or in a file `file:PATH` with one name in each line.
            mean: The number, or one for each channel, that is subtracted from values from 0 to 1.
            std: The number by which the channels are then divided, in the same form.
            crop: The share of a picture's width and height that is left without its border.
        """
        self._labels = _read_labels(labels)
        _reset_peak()
        before_bytes = _status_bytes("VmRSS")
        self._session = _open_session(weights.path)
        grown_bytes = _status_bytes("VmRSS") - before_bytes
        self._idle_bytes = max(grown_bytes, weights.path.stat().st_size)
        self._inputs = [GraphInput.read(each) for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._picture = Picture.read(self._inputs, mean, std, crop)
        self._element_bytes = 0.0
        self._measured_count = 0

    def sample(self) -> Item | None:
        """Return zeros with the shapes of the graph's inputs; None if a shape is not fixed."""
        sample = {}
        for each in self._inputs:
            shape = tuple(size for size in each.shape if size is not None)
            if len(shape) != len(each.shape):
                return None
            sample[each.name] = np.zeros(shape, each.dtype)
        return sample

    def cost(self, item: Item) -> float:
        """Return how many numbers an item contains in all its arrays, but at least 1."""
        return max(1.0, float(sum(each.size for each in item.values())))

    def memory_bytes(self, cost: float) -> int:
        """Return the memory of the model and a batch, estimated from the first batches."""
        return int(self._idle_bytes + self._element_bytes * cost)

    def preprocess(self, item: Any) -> Item:
        """Return one input as arrays by the names of the graph's inputs, or raise InvalidInput."""
        if isinstance(item, Image.Image):
            if self._picture is None:
                raise InvalidInput("the model takes no pictures; send arrays")
            return {self._picture.input.name: self._picture.convert(item)}
        if not isinstance(item, Mapping):
            item = {self._inputs[0].name: item} if len(self._inputs) == 1 else {}
        names = [each.name for each in self._inputs]
        if sorted(item) != sorted(names):
            raise InvalidInput(f"expected one array for each of the inputs {', '.join(names)}")
        return {each.name: each.check(item[each.name]) for each in self._inputs}

    def __call__(self, batch: list[Item]) -> list[dict[str, Any]]:
        """Run items of the same shape together, if the graph takes any number, or else alone."""
        groups: dict[Any, list[int]] = {}
        is_batched = all(each.is_batched for each in self._inputs)
        for index, item in enumerate(batch):
            shapes = tuple(item[each.name].shape for each in self._inputs)
            groups.setdefault((shapes, None if is_batched else index), []).append(index)
        outputs: dict[int, dict[str, Any]] = {}
        for indices in groups.values():
            found = self._run([batch[index] for index in indices])
            outputs.update(zip(indices, found, strict=True))
        return [outputs[index] for index in range(len(batch))]

    def postprocess(self, output: dict[str, Any]) -> dict[str, object]:
        """Return the most likely classes, best first, or without labels all outputs by name."""
        if not self._labels:
            return {name: _to_json(value) for name, value in output.items()}
        scores = np.asarray(output[self._outputs[0]], dtype=np.float64).ravel()
        if len(scores) != len(self._labels):
            raise InferenceFailed(
                f"the graph returned {len(scores)} scores for {len(self._labels)} labels: "
                "options.labels must name each class"
            )
        # Scores that are probabilities already stay as they are.
        if scores.min() < 0 or not np.isclose(scores.sum(), 1, atol=1e-3):
            exponentials = np.exp(scores - scores.max())
            scores = exponentials / exponentials.sum()
        best = scores.argsort()[::-1][:_LABEL_COUNT]
        labels = [
            {"label": self._labels[index], "index": index, "score": round(float(scores[index]), 6)}
            for index in best.tolist()
        ]
        return {"labels": labels}

    def _run(self, items: list[Item]) -> list[dict[str, Any]]:
        feed = {name: np.stack([item[name] for item in items]) for name in items[0]}
        found = self._measure(items, lambda: self._session.run(self._outputs, feed))
        for name, value in zip(self._outputs, found, strict=True):
            if len(value) != len(items):
                raise InferenceFailed(
                    f"the graph's output {name} has {len(value)} entries for {len(items)} items; "
                    "expected one entry for each item"
                )
        return [
            {name: value[index] for name, value in zip(self._outputs, found, strict=True)}
            for index in range(len(items))
        ]

    def _measure(self, items: list[Item], run: Callable[[], list[Any]]) -> list[Any]:
        """Call `run`, and for the first batches also measure the memory that the batch needs."""
        if self._measured_count >= _MEASURED_BATCHES:
            return run()
        self._measured_count += 1
        is_measured = _reset_peak()
        before_bytes = _status_bytes("VmRSS")
        outputs = run()
        needed_bytes = sum(each.nbytes for item in items for each in item.values())
        needed_bytes += sum(int(getattr(each, "nbytes", 0)) for each in outputs)
        if is_measured:
            needed_bytes = max(needed_bytes, _status_bytes("VmHWM") - before_bytes)
        cost = sum(self.cost(item) for item in items)
        self._element_bytes = max(self._element_bytes, needed_bytes / cost)
        return outputs


def _open_session(path: Path) -> Any:
    """Return a session of onnxruntime, or raise ModelUnfit, WeightsUnfit or WeightsDamaged."""
    check_single_file(path)
    try:
        import onnxruntime  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        raise ModelUnfit(
            "worker.models.onnx: onnxruntime is not installed: install it with "
            "`pip install onnxruntime`, and add it to requirements.txt"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _WARNINGS_AND_ERRORS
    torch = sys.modules.get("torch")
    options.intra_op_num_threads = (
        torch.get_num_threads() if torch else torch_threads(available_processors())
    )
    # The arena would keep the memory of the largest batch for ever, and would hide from the
    # measurement how much a batch needs.
    options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  onnxruntime's errors have no common base class
        text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        raise WeightsDamaged(f"the ONNX file cannot be read: {text}") from None


def _read_labels(labels: str) -> list[str]:
    if not labels.startswith("file:"):
        return [label.strip() for label in labels.split(",") if label.strip()]
    path = Path(labels.removeprefix("file:"))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelUnfit(f"options.labels: {path} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _numbers(option: str, text: str, count: int) -> Array:
    try:
        numbers = np.array(text.split(","), np.float32)
    except ValueError:
        numbers = np.zeros(0, np.float32)
    if len(numbers) not in (1, count):
        raise ModelUnfit(
            f"options.{option}: expected one number, or {count} numbers separated by commas, found "
            f"{text!r}"
        )
    return numbers


def _to_json(value: Any) -> Any:
    """Return an output of one item as a JSON value."""
    if isinstance(value, Mapping):
        # Classifiers of scikit-learn return the probability of each class.
        return {str(key): _to_json(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _reset_peak() -> bool:
    """Make the kernel measure this process's peak memory from now on. Return False if it cannot."""
    # Free memory that the process has kept would be used again, and would not be counted.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    """Return VmRSS, the memory of this process now, or VmHWM, its peak; 0 if unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    [line] = [each for each in lines.splitlines() if each.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024
