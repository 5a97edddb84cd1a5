"""A loaded model, with the same interface for item, batch and concurrent models.

An item model processes one item in each call, a batch model a whole batch, and a concurrent model
many items at once, on an event loop (docs/how-to/models.md). These threads call the methods of
`LoadedModel`:

    open_inputs    CPU threads      measure the inputs of a job, so that they can be decoded
    preprocess     CPU threads      preprocess decoded inputs to an item
    call_model     device thread    run one batch of items
    run_loop       device thread    run the event loop of a concurrent model
    encode_output  CPU threads      postprocess one output, and encode the results

`LoadedModel` does not catch the errors that the model's own code raises.
"""

import asyncio
import contextlib
import importlib
import inspect
import io
import json
import sys
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from types import GeneratorType, MappingProxyType
from typing import Any, Final, TypeVar

from PIL import Image

from contract import media
from contract.catalogue import ModelEntry
from contract.messages import InlineBytes, InlineJson, Json
from contract.named_tables import MAX_RESULT_BYTES
from contract.parameters import InvalidParameter, check_parameters
from worker.errors import (
    InferenceFailed,
    InvalidInput,
    ModelFailed,
    ModelUnfit,
    ModelUnusable,
    ResultTooLarge,
    UnsupportedMediaType,
)
from worker.inference.declarations import ParameterArguments, Parameters
from worker.inference.generators import drain, drain_batch, drain_item
from worker.inference.loading import LoadProgress
from worker.inference.model_checks import (
    ModelKind,
    check_declared_results,
    check_methods,
    input_kind,
    kind_of,
    make_instance,
    named_inputs,
    required_sample_rate,
)
from worker.inputs.decoder_process import Data, DecoderProcesses
from worker.inputs.opened import (
    InputKind,
    OpenedInput,
    keep_waiting,
    naming_input,
    open_input,
    open_together,
)
from worker.models import Context, Loading, Results, Weights
from worker.streams.chunks import encode_chunk
from worker.weights.store import WeightsStore

_IMAGE_FORMATS: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
# The modes that JPEG and WebP can store. Images in other modes are converted to RGB.
_PLAIN_MODES: Final = ("L", "RGB")
MAX_MESSAGE_CHARACTERS: Final = 500
# How long the tasks that a model has left on its event loop may take to end.
_CLOSE_SECONDS: Final = 1.0
_NO_PARAMETERS: Parameters = MappingProxyType({})
_NO_INPUTS: Mapping[str, Any] = MappingProxyType({})

Result = InlineJson | InlineBytes
"""A result of a job: a JSON value, or bytes with a media type. It is not yet stored as a blob."""

InputBytes = tuple[Data, str]
"""The bytes and the media type of an input."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncodedResults:
    """The encoded result of a job, and its named results by name."""

    first: Result
    named: Mapping[str, Result]


class ModelLoader:
    """Loads models with their weights. The thread that will run a model must call `load`."""

    def __init__(self, weights: WeightsStore, torch_thread_count: int) -> None:
        self._weights = weights
        self._torch_thread_count = torch_thread_count

    def load(self, model: ModelEntry, loading: Loading | None = None) -> "LoadedModel":
        """Load a model with its weights. Raises ModelUnusable if it cannot be loaded.

        `loading` is for the model's constructor.
        """
        try:
            weights = self._weights.get(model)
            return LoadedModel.load(model, self._torch_thread_count, weights, loading)
        except ModelUnusable:
            raise
        except (Exception, SystemExit) as error:
            # A model's code may raise anything, and may call sys.exit.
            raise ModelFailed.from_error(model.implementation, error) from error


class LoadedModel:
    """Prepares inputs, runs batches and encodes results for one loaded model."""

    def __init__(self, model: ModelEntry, infer: Any) -> None:
        """Wrap an instance of `Infer`. Raises ModelUnfit if it does not match the entry."""
        self._model = model
        self._infer = infer
        rate = required_sample_rate(model, infer)
        self.accepts = input_kind(model, infer)
        self.reads_files = self.accepts == "file"
        """Whether the model reads each input from an open file."""
        self.kind = kind_of(infer)
        self.preprocesses = self.kind is ModelKind.BATCH
        """Whether the model needs a decoded input only until it is preprocessed."""
        self._kind = InputKind(self.accepts, model.max_pixels, rate)
        check_methods(model, infer)
        self._adapter = _make_adapter(model, infer, self.kind)
        check_declared_results(model, infer)
        self._named = {
            name: InputKind(argument.accepts, model.inputs[name].max_pixels, rate)
            for name, argument in named_inputs(model, infer, self.accepts).items()
        }
        torch = sys.modules.get("torch")
        self._inference_mode: Callable[[], contextlib.AbstractContextManager[object]] = (
            torch.inference_mode if torch else contextlib.nullcontext
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def load(
        cls,
        model: ModelEntry,
        torch_thread_count: int,
        weights: Weights | None = None,
        loading: Loading | None = None,
    ) -> "LoadedModel":
        """Import the model's module, and make an instance of its class `Infer`."""
        module = importlib.import_module(model.implementation)
        # torch is used only if the model has imported it, so that a worker without torch models
        # stays small.
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(torch_thread_count)
        make = getattr(module, "Infer", None)
        if not callable(make):
            raise ModelUnfit(f"{model.implementation}: the module has no class Infer")
        return cls(model, make_instance(model, make, weights, loading or LoadProgress(model.name)))

    def prepare(
        self,
        data: bytes,
        media_type: str,
        parameters: Parameters = _NO_PARAMETERS,
        inputs: Mapping[str, InputBytes] = _NO_INPUTS,
    ) -> Any:
        """Decode and preprocess the inputs of a job at once, and return the item."""
        self.check_input_names(inputs)
        if self.reads_files:
            return self.prepare_file(io.BytesIO(data), media_type, parameters)
        decoded = self.open_inputs((data, media_type), inputs).decode(keep_waiting)
        return self.preprocess(decoded.first, parameters, decoded.named)

    def check_input_names(self, names: Collection[str]) -> None:
        """Raise InvalidInput if a required named input is missing, or if a name is unknown."""
        for name, each in self._model.inputs.items():
            if name not in names and not each.optional:
                raise InvalidInput(f"inputs.{name}: the input is missing; send it")
        for name in names:
            if name not in self._model.inputs:
                known = ", ".join(self._model.inputs) or "none"
                raise InvalidInput(
                    f"inputs.{name}: the model has no such input; its named inputs are: {known}"
                )

    def open_inputs(
        self,
        first: InputBytes,
        named: Mapping[str, InputBytes],
        processes: DecoderProcesses | None = None,
    ) -> OpenedInput:
        """Measure the inputs of a job. Without `processes`, this process will decode them."""
        opened = self._open_input(first, processes)
        others = {name: self._open_input(each, processes, name) for name, each in named.items()}
        return open_together(opened, others)

    def _open_input(
        self, given: InputBytes, processes: DecoderProcesses | None, name: str | None = None
    ) -> OpenedInput:
        data, media_type = given
        kind = self._kind if name is None else self._named[name]
        with naming_input(name):
            return open_input(kind, data, self._check_media_type(media_type, name), processes)

    def preprocess(
        self,
        decoded: Any,
        parameters: Parameters = _NO_PARAMETERS,
        inputs: Mapping[str, Any] = _NO_INPUTS,
    ) -> Any:
        """Preprocess decoded inputs to an item. Raises InvalidInput for a wrong parameter."""
        self._check_parameters(parameters)
        with self._inference_mode():
            return self._adapter.preprocess(decoded, parameters, inputs)

    def prepare_file(
        self, file: io.BufferedIOBase, media_type: str, parameters: Parameters = _NO_PARAMETERS
    ) -> Any:
        """Preprocess an input file, close it, and return the item for a batch."""
        with file, self._inference_mode():
            self._check_media_type(media_type)
            self._check_parameters(parameters)
            return self._adapter.preprocess(file, parameters, _NO_INPUTS)

    def call_model(self, batch: list[Any], contexts: Sequence[Context] = ()) -> Sequence[Any]:
        """Run the model on one batch, and return one output for each item, in the same order.

        `contexts` has one context for each item if the model reports progress.
        """
        if isinstance(self._adapter, ConcurrentAdapter):
            return self.run_loop(self._adapter.run_all(batch, contexts))
        with self._inference_mode():
            outputs: Sequence[Any] = self._adapter.run(batch, contexts)
        if isinstance(outputs, Mapping | str | bytes):
            raise InferenceFailed(
                f"the model returned a {type(outputs).__name__} for a batch; expected a list with "
                "one result for each input"
            )
        if not hasattr(outputs, "__len__") or len(outputs) != len(batch):
            found = len(outputs) if hasattr(outputs, "__len__") else "no"
            raise InferenceFailed(
                f"the model returned {found} results for {len(batch)} inputs; "
                "expected one result for each input"
            )
        return outputs

    def call_without_jobs(self, batch: list[Any]) -> Sequence[Any]:
        """Run the model on items that belong to no job."""
        contexts = [NullContext()] * len(batch) if self._model.reports_progress else []
        return self.call_model(batch, contexts)

    def call_concurrent(self, item: Any, context: Context) -> Coroutine[Any, Any, Any]:
        """Return the coroutine that runs a concurrent model on one item, for `run_loop`."""
        if not isinstance(self._adapter, ConcurrentAdapter):
            raise TypeError(f"{self._model.name} is no concurrent model")
        return self._adapter.run_one(item, context)

    def run_loop(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the model's event loop, which exists until `close`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # By default, `asyncio.to_thread` has few threads on a machine with few processors.
            threads = ThreadPoolExecutor(
                self._model.max_concurrent_jobs, f"{self._model.name}-call"
            )
            self._loop.set_default_executor(threads)
        with self._inference_mode():
            return self._loop.run_until_complete(main)

    def encode_output(self, output: Any) -> EncodedResults:
        """Postprocess one output of a batch, and encode it as `encode_results` does."""
        with self._inference_mode():
            result = self._adapter.postprocess(output)
        return encode_results(result, self._model)

    def cost(self, item: Any) -> float:
        """Return the size of an item in the model's own unit, 1 without a method `cost`."""
        hook = self._hook("cost")
        cost = 1.0 if hook is None else float(hook(self._adapter.without_arguments(item)))
        if not (isfinite(cost) and cost > 0):
            raise InferenceFailed(
                f"the model's method `cost` returned {cost}; expected a positive, finite number"
            )
        return cost

    def sample(self) -> Any | None:
        """Return an example item for test runs; None if the model has no method `sample`.

        In an item model with named inputs, `sample` returns the first input and a mapping of the
        named inputs. In all other models, it returns one item.
        """
        hook = self._hook("sample")
        if hook is None:
            return None
        if not self._named or self.preprocesses:
            return hook()
        first, named = hook()
        return self._adapter.preprocess(first, _NO_PARAMETERS, named)

    def memory_bytes(self, cost: float) -> int:
        """Return the device memory that the model declares for a running batch of this cost."""
        hook = self._hook("memory_bytes")
        return 0 if hook is None else max(0, int(hook(cost)))

    @property
    def has_fixed_memory(self) -> bool:
        """Whether jobs need no device memory beyond that of the idle model."""
        return bool(getattr(self._infer, "has_fixed_memory", False))

    def close(self) -> None:
        """Call the model's own method `close` if it has this method, and close its event loop."""
        try:
            if (hook := self._hook("close")) is not None:
                ending = hook()
                if inspect.isawaitable(ending):
                    self.run_loop(_await(ending))
        finally:
            if self._loop is not None:
                self._loop.run_until_complete(_cancel_tasks())
                # Without waiting for the loop's threads, which a model's code may block.
                self._loop.close()
                self._loop = None

    def _hook(self, name: str) -> Callable[..., Any] | None:
        hook = getattr(self._infer, name, None)
        return hook if callable(hook) else None

    def _check_parameters(self, parameters: Parameters) -> None:
        # The gateway has not checked the jobs that a producer put on the queue.
        if self._model.parameters:
            try:
                check_parameters(self._model.parameters, parameters)
            except InvalidParameter as error:
                raise InvalidInput(str(error)) from None

    def _check_media_type(self, media_type: str, name: str | None = None) -> str:
        accepted = self._model.media_types if name is None else self._model.inputs[name].media_types
        if media_type in accepted:
            return media_type
        bare_type = media.essence(media_type)
        if bare_type not in accepted:
            raise UnsupportedMediaType(
                f"{self._model.name} does not accept the media type {bare_type}; "
                f"send one of {', '.join(accepted)}"
            )
        return bare_type


class BatchAdapter:
    """Calls a batch model, which processes a whole batch in each call."""

    def __init__(self, infer: Any, model: ModelEntry) -> None:
        self._infer = infer
        self._model = model
        arguments = ParameterArguments(infer.preprocess)
        self._arguments = arguments if arguments.exist else None
        self.postprocess: Callable[[Any], Any] = getattr(infer, "postprocess", _identity)

    def preprocess(self, item: Any, parameters: Parameters, inputs: Mapping[str, Any]) -> Any:
        """Call the model's method `preprocess` with the arguments that it declares."""
        arguments = self._arguments.of(parameters) if self._arguments else {}
        return self._infer.preprocess(item, **inputs, **arguments)

    def without_arguments(self, item: Any) -> Any:
        """Return the item unchanged, because it contains neither parameters nor named inputs."""
        return item

    def run(self, batch: list[Any], contexts: Sequence[Context]) -> Any:
        """Call the model once for the whole batch, and return the model's outputs."""
        given = [list(contexts)] if self._model.reports_progress else []
        found: Any = self._infer(batch, *given)
        if isinstance(found, GeneratorType):
            return drain_batch(found, len(batch), contexts, self._model)
        return found


@dataclass(frozen=True, slots=True)
class _ItemWithArguments:
    item: Any
    arguments: Mapping[str, Any]
    inputs: Mapping[str, Any]


class ItemAdapter:
    """Calls an item model, which processes one item in each call."""

    def __init__(self, infer: Any, model: ModelEntry) -> None:
        self._infer = infer
        self._model = model
        arguments = ParameterArguments(infer)
        self._arguments = arguments if arguments.exist else None
        self.postprocess: Callable[[Any], Any] = _identity

    def preprocess(self, item: Any, parameters: Parameters, inputs: Mapping[str, Any]) -> Any:
        """Return the item together with the arguments of the model's later call, if any."""
        if not (self._arguments or inputs):
            return item
        arguments = self._arguments.of(parameters) if self._arguments else {}
        return _ItemWithArguments(item, arguments, inputs)

    def without_arguments(self, item: Any) -> Any:
        """Return the item without the job's parameters and named inputs."""
        return item.item if isinstance(item, _ItemWithArguments) else item

    def run(self, batch: list[Any], contexts: Sequence[Context]) -> Any:
        """Call the model once for each item of the batch, and return the outputs in order."""
        if self._model.reports_progress:
            pairs = zip(batch, contexts, strict=True)
            return [self._run_item(item, context) for item, context in pairs]
        return [self._run_item(item) for item in batch]

    def _run_item(self, item: Any, *context: Context) -> Any:
        found: Any = self._run_one(item, *context)
        return (
            drain_item(found, context, self._model) if isinstance(found, GeneratorType) else found
        )

    def _run_one(self, item: Any, *context: Context) -> Any:
        if isinstance(item, _ItemWithArguments):
            return self._infer(item.item, *context, **item.inputs, **item.arguments)
        # An example item has no parameters, so its call has the arguments' defaults.
        return self._infer(item, *context, **(self._arguments.of({}) if self._arguments else {}))


class ConcurrentAdapter(ItemAdapter):
    """Calls a concurrent model, whose calls are coroutines or async generators."""

    async def run_one(self, item: Any, context: Context) -> Any:
        """Run the model on one item, and return its output."""
        running: Any = self._run_one(item, context)
        if isinstance(running, AsyncGenerator):
            return await drain(running, context, self._model)
        return await running

    async def run_all(self, batch: list[Any], contexts: Sequence[Context]) -> Sequence[Any]:
        """Run the model on all items of a batch at once, and return the outputs in order."""
        pairs = zip(batch, contexts, strict=True)
        tasks = [asyncio.create_task(self.run_one(*pair)) for pair in pairs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _make_adapter(model: ModelEntry, infer: Any, kind: ModelKind) -> BatchAdapter | ItemAdapter:
    if kind is ModelKind.CONCURRENT:
        return ConcurrentAdapter(infer, model)
    return (BatchAdapter if kind is ModelKind.BATCH else ItemAdapter)(infer, model)


async def _await(ending: Awaitable[T]) -> T:
    return await ending


async def _cancel_tasks() -> None:
    """Cancel what still runs on the event loop, such as tasks that a model has started."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _identity(value: Any) -> Any:
    return value


def encode_result(result: Any, media_type: str) -> Result:
    """Encode a result, but not yet a JSON value, or raise InferenceFailed if its type is wrong."""
    if media_type == media.JSON:
        return InlineJson(result)
    if isinstance(result, Image.Image) and media_type in _IMAGE_FORMATS:
        return InlineBytes(media_type, _encode_image(result, _IMAGE_FORMATS[media_type]))
    if isinstance(result, str) and media_type.startswith("text/"):
        return InlineBytes(media_type, result.encode("utf-8", "replace"))
    if isinstance(result, bytes | bytearray | memoryview):
        return InlineBytes(media_type, bytes(result))
    raise InferenceFailed(
        f"the model returned a {type(result).__name__}, which cannot be encoded as {media_type}, "
        "the media type in the model's catalogue entry"
    )


def encode_results(result: Any, model: ModelEntry) -> EncodedResults:
    """Encode what a model has returned in the media types of its catalogue entry.

    An optional named result that is missing or None is omitted. Raises InferenceFailed if a
    required named result is missing, or if a result does not match the entry.
    """
    first, returned = (result.first, result.named) if isinstance(result, Results) else (result, {})
    for name in returned:
        if name not in model.results:
            raise InferenceFailed(
                f"results.{name}: the model's catalogue entry has no such result; its named "
                f"results are: {', '.join(model.results) or 'none'}"
            )
    named = {}
    for name, each in model.results.items():
        value = returned.get(name)
        if value is None and each.optional:
            continue
        if name not in returned:
            raise InferenceFailed(
                f"results.{name}: the model did not return this result; return "
                f"Results(…, {name}=…), or set optional in the model's catalogue entry"
            )
        with _naming_result(name):
            named[name] = encode_result(value, each.media_type)
    return EncodedResults(encode_result(first, model.result_media_type), named)


@contextlib.contextmanager
def _naming_result(name: str | None) -> Iterator[None]:
    """Add the name of a named result, if it is one, to the text of an error in the block."""
    try:
        yield
    except (InferenceFailed, ResultTooLarge) as error:
        if name is None:
            raise
        raise type(error)(f"results.{name}: {error}") from None


def _encode_image(image: Image.Image, file_format: str) -> bytes:
    file = io.BytesIO()
    fits = file_format == "PNG" or image.mode in _PLAIN_MODES
    (image if fits else image.convert("RGB")).save(file, file_format)
    return file.getvalue()


def serialize_result(result: Result) -> bytes:
    """Return the bytes of a result, or raise InferenceFailed or ResultTooLarge."""
    try:
        data = result.data if isinstance(result, InlineBytes) else dump_json(result.value)
    except (TypeError, ValueError, RecursionError) as error:
        found = describe_unwritable(result.value) if isinstance(result, InlineJson) else None
        raise InferenceFailed(
            f"the model's result cannot be written as JSON: {found or error}"
        ) from None
    if len(data) > MAX_RESULT_BYTES:
        raise ResultTooLarge(
            f"the result has {len(data)} bytes; at most {MAX_RESULT_BYTES} bytes can be returned"
        )
    return data


def serialize_results(results: EncodedResults) -> dict[str | None, tuple[Result, bytes]]:
    """Return each result with its bytes, by name. The result without a name has the key None."""
    found: dict[str | None, tuple[Result, bytes]] = {}
    size_bytes = 0
    for name, each in [(None, results.first), *results.named.items()]:
        with _naming_result(name):
            found[name] = each, serialize_result(each)
        size_bytes += len(found[name][1])
        if size_bytes > MAX_RESULT_BYTES:
            raise ResultTooLarge(
                f"the results have more than {MAX_RESULT_BYTES} bytes in total: "
                "return smaller results"
            )
    return found


def dump_json(value: Json) -> bytes:
    """Serialize a value as compact JSON. Raises ValueError or TypeError if JSON cannot."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def describe_unwritable(result: Any) -> str | None:
    """Say where JSON cannot represent a result, if so, and what to return instead."""
    pending: list[tuple[str, Any, frozenset[int]]] = [("result", result, frozenset())]
    while pending:
        place, value, parents = pending.pop()
        match value:
            case None | bool() | int() | str():
                continue
            case float():
                if not isfinite(value):
                    return f"{place} is {value}; return a finite number or None"
            case dict() | list() | tuple():
                if id(value) in parents:
                    return f"{place} contains itself; return a copy"
                inner = parents | {id(value)}
                if isinstance(value, dict):
                    for key in value:
                        if not isinstance(key, str | int | float | bool | None):
                            kind = type(key).__name__
                            return f"{place} has a key of type {kind}; use texts as keys"
                    members = [(f"{place}[{key!r:.60}]", each) for key, each in value.items()]
                else:
                    members = [(f"{place}[{index}]", each) for index, each in enumerate(value)]
                pending += [(path, each, inner) for path, each in reversed(members)]
            case _:
                remedy = ".tolist()" if hasattr(value, "tolist") else "a number, text, list or dict"
                verb = "call" if remedy == ".tolist()" else "return"
                return f"{place} is of type {type(value).__name__}; {verb} {remedy}"
    return None


def check_progress(fraction: float | None, message: str | None) -> None:
    """Raise ValueError if the fraction is not from 0 to 1, or if the text is too long."""
    if fraction is not None and not 0 <= fraction <= 1:
        raise ValueError(f"fraction: expected a number from 0 to 1, found {fraction}")
    if message is not None and len(message) > MAX_MESSAGE_CHARACTERS:
        raise ValueError(
            f"message: expected at most {MAX_MESSAGE_CHARACTERS} characters, found {len(message)}"
        )


class NoParentJob(Exception):
    """A model has called `context.run` without a running job."""

    code = "no-parent-job"


class NullContext:
    """A context that sends no reports, for runs of a model without a job."""

    is_streaming = False
    operation: str | None = None

    def emit(self, chunk: Json) -> None:
        """Check the chunk as the stream of a job does."""
        encode_chunk(chunk)

    async def wait_for_room(self) -> None:
        """Do nothing, because nothing is written."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Check the report as a worker does."""
        check_progress(fraction, message)

    def check(self) -> None:
        """Do nothing, because there is no job that could be cancelled."""

    def run(
        self, model: str, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Raise NoParentJob, because child jobs need a running job as their parent."""
        raise NoParentJob(
            f"context.run needs a running job; start the system to run jobs of {model}"
        )
