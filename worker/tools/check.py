"""`python -m worker.tools.check NAME FILE`: run one model on one input, without queues and gateway.

The command prints one JSON object per line: the loaded model, the result, and then the time and the
memory of each batch size, or the suggestions of `worker.tools.check_load`. The exit code is 1 if
the model or the input causes an error, and 2 if an argument or a setting is wrong.
"""

import argparse
import base64
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO

from contract import media
from contract.catalogue import Catalogue, ModelEntry, to_toml
from contract.errors import ContractError, InvalidSetting
from contract.messages import InlineJson, Json
from contract.parameters import InvalidParameter, check_parameters
from worker.errors import WorkerError
from worker.inference.loaded_model import (
    EncodedResults,
    LoadedModel,
    ModelLoader,
    NoParentJob,
    Result,
    serialize_results,
)
from worker.inference.model_checks import ModelKind
from worker.inference.model_manager import batch_sizes, most_together, run_sample
from worker.memory.device_errors import is_out_of_memory
from worker.memory.simulated_device import metering, resident_bytes
from worker.processes.setup import keep_large_blocks, prefer_device_thread
from worker.settings import CheckSettings, MemorySettings
from worker.tools.check_load import LoadFailed, LoadMeasurement, LoadResult, ModelInput, suggest
from worker.weights.store import WeightsStore

_EXIT_FAULT: Final = 1
_EXIT_USAGE: Final = 2

END: Final = "end"
"""The text of the last step. If it is missing, the process has died."""
_PASSES: Final = 3

Line = dict[str, Any]


def check(
    model: ModelEntry,
    sample: ModelInput,
    loader: ModelLoader,
    memory: MemorySettings | None = None,
    caller_count: int = 0,
) -> Iterator[Line]:
    """Load a model, run it on one input, and yield the JSON objects that the command prints.

    With `caller_count`, the model is measured under load instead of in single batches. Raises
    WorkerError, LoadFailed if a job of the load fails, or any error of the model's own code.
    """
    yield _step(f"loading {model.name}")
    loaded, line = _load(model, loader)
    yield line
    try:
        yield _step(f"running {model.name}", model.max_run_seconds)
        item, line = _run_input(loaded, sample)
        yield line
        if caller_count:
            yield from _measure_load(model, sample, loaded, item, memory, caller_count)
            return
        # An item model never runs a batch.
        most = 1 if loaded.kind is ModelKind.ITEM else most_together(model, loaded.kind)
        for size in batch_sizes(most):
            yield _step(f"measuring {_together(loaded.kind, size)}")
            yield _batch(loaded, [item] * size)
    finally:
        loaded.close()


def _together(kind: ModelKind, size: int) -> str:
    return f"{size} jobs at once" if kind is ModelKind.CONCURRENT else f"batches of {size}"


def _step(text: str, limit_seconds: float | None = None) -> Line:
    """Return the object for a step, and how long it may take in a worker."""
    return {"event": "step", "text": text, "limit_seconds": limit_seconds}


def _load(model: ModelEntry, loader: ModelLoader) -> tuple[LoadedModel, Line]:
    begun = time.perf_counter()
    loaded = loader.load(model)
    run_sample(loaded)
    return loaded, {
        "event": "loaded",
        "model": model.name,
        "accepts": loaded.accepts,
        "kind": loaded.kind.value,
        "seconds": round(time.perf_counter() - begun, 3),
        "resident_bytes": _resident_bytes(loaded),
        "process_bytes": _process_bytes(),
    }


def _run_input(loaded: LoadedModel, sample: ModelInput) -> tuple[Any, Line]:
    """Run a model on one input. Return the prepared input, and the JSON object with the result."""
    begun = time.perf_counter()
    item = sample.prepare(loaded)
    prepared = time.perf_counter()
    (output,) = loaded.call_without_jobs([item])
    finishing = time.perf_counter()
    results = loaded.encode_output(output)
    return item, {
        "event": "result",
        "prepare_ms": _ms(prepared - begun),
        "run_ms": _ms(finishing - prepared),
        "finish_ms": _ms(time.perf_counter() - finishing),
        **_shown(results),
    }


def _measure_load(  # noqa: PLR0913, PLR0917 - what the measurement needs
    model: ModelEntry,
    sample: ModelInput,
    loaded: LoadedModel,
    item: Any,
    memory: MemorySettings | None,
    caller_count: int,
) -> Iterator[Line]:
    """Measure each batch size under load, and yield an object for each, then the suggestion."""
    # The first preparation of an input also imports modules, so a later one is measured.
    prepare_seconds = statistics.median(
        _timed(lambda: sample.prepare(loaded)) for _ in range(_PASSES)
    )
    results, peaks = list[LoadResult](), dict[int, int]()
    with tempfile.TemporaryDirectory(prefix="loosely-check-") as folder:
        # In a folder of its own, the measurement does not wait for workers on the same device.
        settings = replace(memory or MemorySettings(), folder=Path(folder), is_admitting=False)
        load = LoadMeasurement(model, loaded, sample, settings)
        for size in batch_sizes(max(caller_count, most_together(model, loaded.kind))):
            together = _together(loaded.kind, size)
            yield _step(f"measuring {caller_count} callers in {together}")
            try:
                peaks[size] = _peak_bytes(loaded, [item] * size)
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                break  # larger batches do not fit into memory either
            results.append(load.measure(size, caller_count))
            yield _load_line(results[-1], peaks[size], caller_count)
    found = suggest(results, prepare_seconds * 1000, loaded.kind)
    one, chosen = (
        next(each for each in results if each.batch_size == size)
        for size in (1, found.max_batch_size)
    )
    lines = {"max_batch_size": found.max_batch_size, "max_wait_ms": found.max_wait_ms}
    if loaded.kind is ModelKind.CONCURRENT:
        lines = {"max_concurrent_jobs": found.max_batch_size}
    if _cuda() is not None:
        lines["memory_bytes"] = _resident_bytes(loaded) + peaks[found.max_batch_size]
    yield {
        "event": "suggestion",
        "reasons": dict(zip(lines, (found.size_reason, found.wait_reason), strict=False)),
        "toml": "".join(f"{key} = {to_toml(value)}\n" for key, value in lines.items()),
        "max_batch_size": found.max_batch_size,
        "job_ms": _ms(one.throughput.batch_ms / 1000),
        "batch_ms": _ms(chosen.throughput.batch_ms / 1000),
        "uses_gpu": model.uses_gpu,
    }


def _load_line(result: LoadResult, peak_bytes: int, caller_count: int) -> Line:
    throughput = result.throughput
    return {
        "event": "load",
        "size": result.batch_size,
        "callers": caller_count,
        "items": throughput.items,
        "items_per_second": round(throughput.per_second, 2),
        "p50_ms": round(result.percentile_ms(50), 3),
        "p95_ms": round(result.percentile_ms(95), 3),
        "batch_ms": _ms(throughput.batch_ms / 1000),
        "mean_batch_size": round(throughput.items / throughput.batches, 2),
        "peak_bytes": peak_bytes,
    }


def _batch(loaded: LoadedModel, items: list[Any]) -> Line:
    # The memory is measured in a separate pass, because measuring makes the pass slow.
    peak_bytes = _peak_bytes(loaded, items)
    seconds = statistics.median(
        _timed(lambda: loaded.call_without_jobs(items)) for _ in range(_PASSES)
    )
    return {
        "event": "batch",
        "size": len(items),
        "ms": _ms(seconds),
        "ms_per_item": _ms(seconds / len(items)),
        "peak_bytes": peak_bytes,
    }


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _peak_bytes(loaded: LoadedModel, items: list[Any]) -> int:
    """Return how many bytes of memory a batch of `items` needs in addition to the loaded model."""
    cost = sum(loaded.cost(item) for item in items)
    declared_bytes = loaded.memory_bytes(cost) - loaded.memory_bytes(0)
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()
        before_bytes = cuda.memory_allocated()
        loaded.call_without_jobs(items)
        return int(cuda.max_memory_allocated() - before_bytes) + declared_bytes
    with metering(lambda _: None) as peak:
        loaded.call_without_jobs(items)
        return peak() + declared_bytes


def _resident_bytes(loaded: LoadedModel) -> int:
    cuda = _cuda()
    held = resident_bytes(loaded) if cuda is None else int(cuda.memory_allocated())
    return held + loaded.memory_bytes(0)


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _process_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _shown(results: EncodedResults) -> Line:
    found = serialize_results(results)
    first = _shown_result(*found.pop(None))
    named = {name: _shown_result(*each) for name, each in found.items() if name is not None}
    return {**first, "results": named} if named else first


def _shown_result(result: Result, data: bytes) -> Line:
    if isinstance(result, InlineJson):
        return {"media_type": media.JSON, "json": result.value}
    encoded = base64.b64encode(data).decode()
    return {"media_type": result.media_type, "size_bytes": len(data), "base64": encoded}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _sample(model: ModelEntry, path: Path, announced: str | None) -> ModelInput:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"cannot read the input file {path}: {error.strerror}") from None
    limit_bytes = model.max_upload_bytes
    if len(data) > limit_bytes:
        raise InvalidSetting(
            f"{path} has {len(data)} bytes, but {model.name} accepts at most {limit_bytes} bytes"
        )
    # Bytes without a known signature have the model's first media type that they may have.
    fitting = (kind for kind in model.media_types if media.agrees(kind, data))
    seen = announced or media.sniff(data) or next(fitting, media.OCTET_STREAM)
    return ModelInput(data, seen)


def _named_inputs(model: ModelEntry, given: list[str]) -> dict[str, tuple[bytes, str]]:
    """Read the named inputs that the option `--input NAME=FILE` gives."""
    found = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in model.inputs or not path:
            known = ", ".join(model.inputs) or "none"
            raise InvalidSetting(
                f"--input {text}: expected NAME=FILE; the named inputs of {model.name} are: {known}"
            )
        sample = _sample(model.entry_of_input(name), Path(path), None)
        found[name] = (sample.data, sample.media_type)
    return found


def _parameters(text: str) -> dict[str, Json]:
    """Parse the option `--parameters`, which must be a JSON object."""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"parameters: {error}") from None
    if not isinstance(found, dict):
        raise InvalidSetting("parameters: expected a JSON object")
    return found


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not allowed in JSON")


def _print(line: Line, output: TextIO) -> None:
    output.write(json.dumps(line, ensure_ascii=False) + "\n")
    output.flush()


def _failed(code: str, detail: str, output: TextIO, **more: str) -> int:
    _print({"event": "failed", "code": code, "detail": detail, **more}, output)
    return _EXIT_FAULT


def main(arguments: list[str], environ: dict[str, str], output: TextIO) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.tools.check", description="Runs one model on one input."
    )
    parser.add_argument("name", help="the model's name in the catalogue")
    parser.add_argument("file", type=Path, help="a file with the bytes of one input")
    parser.add_argument("--type", help="the input's media type; guessed from the bytes by default")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="a named input"
    )
    parser.add_argument(
        "--parameters", default="{}", metavar="JSON", help="the model's parameters, by name"
    )
    parser.add_argument(
        "--load", type=int, default=0, metavar="N", help="measure with N jobs in flight"
    )
    parser.add_argument("--steps", action="store_true", help="also print what is done next")
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        model = Catalogue.load(settings.catalogue).model(parsed.name)
        sample = _sample(model, parsed.file, parsed.type)
        named = _named_inputs(model, parsed.input)
        parameters = _parameters(parsed.parameters)
        if model.parameters:
            check_parameters(model.parameters, parameters)
        sample = replace(sample, named=named, parameters=parameters)
        keep_large_blocks()
        if parsed.load:
            prefer_device_thread(os.environ)
        store = WeightsStore.of(settings.weights, settings.guard, settings.payload_storage)
        loader = ModelLoader(store, settings.torch_threads)
        lines = check(model, sample, loader, settings.memory, parsed.load)
        for line in chain(lines, [_step(END)]):
            if parsed.steps or line["event"] != "step":
                _print(line, output)
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_USAGE
    except InvalidParameter as error:
        # The gateway refuses a submit with the same code, detail and pointer.
        pointer = f"/parameters{error.pointer}"
        return _failed("invalid-input", str(error), output, pointer=pointer)
    except WorkerError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return _failed(error.code, str(error), output)
    except (LoadFailed, NoParentJob) as error:
        return _failed(error.code, str(error), output)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a model's code may raise anything
        traceback.print_exception(error)
        detail = f"{model.implementation} raised {type(error).__name__}"
        return _failed("inference-failed", detail, output)
    return 0


if __name__ == "__main__":
    # What the model's code prints goes to standard error, so that it is not mixed with the lines.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    code = main(sys.argv[1:], dict(os.environ), lines)
    sys.stdout.flush()
    # Not sys.exit, which would wait for threads that a model has started.
    os._exit(code)
