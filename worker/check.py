"""`python -m worker.check NAME FILE`: run one model on one input, without queues and gateway.

The command prints one JSON object per line. The first object describes the loaded model. The second
object contains the result. Each later object contains the time and the memory of a batch, for the
batch sizes 1, 2, 4 … `max_batch_size`.

The command reads the settings MODEL_CATALOGUE, TORCH_THREADS and WORKER_WEIGHTS_CACHE, and also
PAYLOAD_STORAGE if the weights are in blob storage. The exit code is 1 if the model or the input
causes an error, and 2 if an argument or a setting is wrong.
"""

import argparse
import base64
import json
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from contract import media
from contract.catalogue import Catalogue, ModelEntry
from contract.errors import ContractError
from contract.messages import InlineJson
from worker.errors import SettingsError, WeightsUnavailable, WorkerError
from worker.inference.loaded_model import LoadedModel, ModelLoader, Result, serialize_result
from worker.inference.model_manager import SilentContext, run_sample
from worker.memory.simulated_device import metering, resident_bytes
from worker.net.storage import storage_account
from worker.process import keep_large_blocks
from worker.settings import AzureEndpoint, CheckSettings
from worker.weights.store import AzureBlobReader, WeightsStore

_EXIT_FAULT: Final = 1
_EXIT_USAGE: Final = 2
_PASSES: Final = 3

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The bytes and the media type of an input, as a caller would send them."""

    data: bytes
    media_type: str


class LazyBlobReader:
    """Reads blobs. Each read creates a new client of the storage account.

    No client is created before the first read. Therefore a model whose weights are not in blob
    storage can be checked without a storage account.
    """

    def __init__(self, endpoint: AzureEndpoint | None) -> None:
        self._endpoint = endpoint

    def read(self, container: str, blob: str) -> Iterator[bytes]:
        """Return the content of a blob in chunks.

        Raises:
            WeightsMissing: The blob does not exist.
            WeightsUnavailable: PAYLOAD_STORAGE is missing or wrong, or blob storage cannot be
                reached.
        """
        if self._endpoint is None:
            raise WeightsUnavailable(
                "PAYLOAD_STORAGE is not set, but the model's weights are in blob storage; set it "
                "to the connection string of the storage account"
            )
        try:
            account = storage_account(self._endpoint)
        except ValueError:
            # The error's text would repeat the connection string.
            raise WeightsUnavailable(
                "PAYLOAD_STORAGE: expected the connection string of a storage account"
            ) from None
        return AzureBlobReader(account).read(container, blob)


def check(
    model: ModelEntry, sample: ModelInput, named: Mapping[str, ModelInput], loader: ModelLoader
) -> Iterator[Line]:
    """Load a model, run it on one input, and yield the JSON objects that the command prints.

    `named` contains the model's named inputs.

    Raises:
        WorkerError: The model cannot be loaded, or the input or the result cannot be used.
        Exception: Any error that the model's own code raises.
    """
    begun = time.perf_counter()
    loaded = loader.load(model)
    run_sample(model, loaded)
    yield {
        "event": "loaded",
        "model": model.name,
        "accepts": loaded.accepts,
        "seconds": round(time.perf_counter() - begun, 3),
        "resident_bytes": _resident_bytes(loaded),
        "process_bytes": _process_bytes(),
    }
    begun = time.perf_counter()
    inputs = {name: (each.data, each.media_type) for name, each in named.items()}
    item = loaded.prepare(sample.data, sample.media_type, inputs=inputs)
    prepared = time.perf_counter()
    (output,) = _run(loaded, [item])
    finishing = time.perf_counter()
    result = loaded.finish(output)
    yield {
        "event": "result",
        "prepare_ms": _ms(prepared - begun),
        "finish_ms": _ms(time.perf_counter() - finishing),
        **_shown(result),
    }
    for size in _sizes(model.max_batch_size):
        yield _batch(loaded, [item] * size)


def _batch(loaded: LoadedModel, items: list[Any]) -> Line:
    # The memory is measured in a separate pass, because measuring makes the pass slow.
    peak_bytes = _peak_bytes(loaded, items)
    seconds = statistics.median(_timed(lambda: _run(loaded, items)) for _ in range(_PASSES))
    return {
        "event": "batch",
        "size": len(items),
        "ms": _ms(seconds),
        "ms_per_item": _ms(seconds / len(items)),
        "peak_bytes": peak_bytes,
    }


def _run(loaded: LoadedModel, items: list[Any]) -> list[Any]:
    contexts = [SilentContext()] * len(items) if loaded.reports_progress else []
    return list(loaded.run(items, contexts))


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
        _run(loaded, items)
        return int(cuda.max_memory_allocated() - before_bytes) + declared_bytes
    with metering(lambda _: None) as peak:
        _run(loaded, items)
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


def _shown(result: Result) -> Line:
    data = serialize_result(result)
    if isinstance(result, InlineJson):
        return {"media_type": media.JSON, "json": result.value}
    encoded = base64.b64encode(data).decode()
    return {"media_type": result.media_type, "size_bytes": len(data), "base64": encoded}


def _sizes(largest: int) -> list[int]:
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _sample(model: ModelEntry, path: Path, announced: str | None) -> ModelInput:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    limit_bytes = model.max_upload_bytes
    if len(data) > limit_bytes:
        raise SettingsError(
            f"{path}: has {len(data)} bytes; {model.name} accepts at most {limit_bytes} bytes"
        )
    seen = announced or media.sniff(data)
    if seen is None:
        # The bytes have no known signature: use the model's first media type that they may have.
        fitting = [kind for kind in model.media_types if media.agrees(kind, data)]
        seen = fitting[0] if fitting else media.OCTET_STREAM
    return ModelInput(data, seen)


def _named_samples(model: ModelEntry, given: list[str]) -> dict[str, ModelInput]:
    """Return the named inputs in the values of the option `--input`."""
    found = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in model.inputs or not path:
            known = ", ".join(model.inputs) or "none"
            raise SettingsError(
                f"--input {text}: expected NAME=FILE; the named inputs of {model.name} are: {known}"
            )
        found[name] = _sample(model.entry_of_input(name), Path(path), None)
    return found


def _print(line: Line, output: TextIO) -> None:
    output.write(json.dumps(line, ensure_ascii=False) + "\n")
    output.flush()


def _failed(code: str, detail: str, output: TextIO) -> int:
    _print({"event": "failed", "code": code, "detail": detail}, output)
    return _EXIT_FAULT


def main(arguments: list[str], environ: dict[str, str], output: TextIO) -> int:
    """Load a model, run it on an input, measure its batches, and write JSON lines to `output`.

    Returns:
        The exit code: 0 if the model ran, 1 if the model or the input caused an error, 2 if an
        argument or a setting is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m worker.check", description="Runs one model on one input."
    )
    parser.add_argument("name", help="the model's name in the catalogue")
    parser.add_argument("file", type=Path, help="a file with the bytes of one input")
    parser.add_argument("--type", help="the input's media type; guessed from the bytes by default")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="a named input"
    )
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        model = Catalogue.load(settings.catalogue).model(parsed.name)
        sample = _sample(model, parsed.file, parsed.type)
        named = _named_samples(model, parsed.input)
        keep_large_blocks()
        weights = WeightsStore(settings.weights_cache, LazyBlobReader(settings.payload_storage))
        loader = ModelLoader(weights, settings.torch_threads)
        for line in check(model, sample, named, loader):
            _print(line, output)
    except (ContractError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_USAGE
    except WorkerError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
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
