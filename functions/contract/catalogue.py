"""Read the model catalogue `models.toml`, and compute the names of the models' queues."""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from contract import media
from contract.errors import CatalogueError, UnknownModel
from contract.named_tables import NamedInput, NamedResult, read_inputs, read_results
from contract.names import low_priority_queue
from contract.parameters import Schema, read_schemas
from contract.warm import read_periods
from contract.weights import parse_weights

DEFAULT_PATH = Path(__file__).with_name("models.toml")

# The largest body of a single Put Blob request, because a caller sends an upload in one request.
_MAX_UPLOAD_BYTES = 5000 * 1024 * 1024
_MAX_INPUT_BYTES = 100 * 1024 * 1024

ENVELOPE_BYTES: Final = 64 * 1024
"""How many bytes a form or a JSON body may have in addition to the inputs in it."""

DEFAULT_MAX_UPLOAD_BYTES: Final = 10 * 1024 * 1024
"""`max_upload_bytes` of a model whose entry sets neither this key nor `max_input_bytes`."""

# What the host accepts in addition to the largest inputs. The gateway counts a chunked body while
# it arrives, and refuses it with a problem document before the host breaks off the connection.
# Also, a worker's reply has up to 192 KiB.
_HOST_MARGIN_BYTES: Final = 256 * 1024
# The same for an input that the gateway stores while it arrives. As many bytes can be between host
# and gateway while the storage is slower than the caller.
_STREAM_MARGIN_BYTES: Final = 2 * 1024 * 1024
_LARGEST_UNSTREAMED_BYTES: Final = 512 * 1024
# Azure's host accepts no larger body by default.
_MAX_BODY_LIMIT_BYTES: Final = 100 * 1024 * 1024

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_VERSION = re.compile(r"[1-9][0-9]{0,5}")

FIRST_VERSION: Final = "1"
"""The version of a model that its own table describes, as in `[classifier]`."""

# What callers see of a model is the same for all its versions, because they do not know in advance
# which version runs their job.
_SHARED_KEYS: Final = frozenset(
    {"task", "media_types", "result_media_type", "results", "reports_progress", "parameters"}
    | {"streams", "openai"}
    | {"inputs", "max_input_bytes", "max_upload_bytes", "max_pixels"}
    | {"deadline_seconds", "max_deadline_seconds", "versions", "fallback"}
)
# A version with another value of the key on the left does not inherit the keys on the right.
_DEPENDENT_KEYS: Final = {
    "implementation": frozenset({"weights", "weights_sha256", "options", "memory_bytes"}),
    "weights": frozenset({"weights_sha256"}),
}

OPENAI_OPERATIONS: Final = (
    "chat.completions",
    "completions",
    "responses",
    "embeddings",
    "images.generations",
    "images.edits",
    "audio.transcriptions",
    "audio.speech",
)
"""The operations of the OpenAI API that a model can offer, as the key `openai` names them."""

Option = str | int | float | bool
"""The value of one entry of a model's `options` in the catalogue."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model or a version of a model, with the keys that docs/reference/catalogue.md describes.

    The name of version 2 of `classifier` is `classifier:2`, that of version 1 is `classifier`. All
    versions have the same `versions`, which are percentages of new jobs, and the same `fallback`.
    A size of 0 means no limit for `max_pixels`, and a measurement by the worker for `memory_bytes`.
    """

    name: str
    implementation: str
    description: str
    media_types: tuple[str, ...]
    task: str = "inference"
    queue: str = ""
    max_input_bytes: int = 4 * 1024 * 1024
    max_upload_bytes: int = 0
    max_pixels: int = 0
    deadline_seconds: int = 60
    max_deadline_seconds: int = 3600
    max_batch_size: int = 8
    max_wait_ms: int = 5
    lock_seconds: int = 10
    max_delivery_count: int = 3
    reports_progress: bool = False
    weights: str = ""
    weights_sha256: str = ""
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)
    memory_bytes: int = 0
    uses_gpu: bool = True
    result_media_type: str = media.JSON
    parameters: Mapping[str, Schema] = field(default_factory=dict, hash=False)
    min_workers: int = 0
    warm: tuple[str, ...] = ()
    warm_workers: int = 0
    # Not in the repr, by which workers find the measured memory of a model: the memory does not
    # depend on the time limit, the percentages and the named results.
    max_run_seconds: int = field(default=300, repr=False)
    versions: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)
    fallback: str = field(default="", repr=False)
    inputs: Mapping[str, NamedInput] = field(default_factory=dict, hash=False)
    results: Mapping[str, NamedResult] = field(default_factory=dict, hash=False, repr=False)
    max_concurrent_jobs: int = field(default=16, repr=False)
    streams: bool = field(default=False, repr=False)
    openai: tuple[str, ...] = field(default=(), repr=False)
    gpus: int = field(default=1, repr=False)

    @property
    def version(self) -> str:
        """The version that this entry describes."""
        return split_name(self.name)[1]

    @property
    def model_name(self) -> str:
        """The name of the model without the version."""
        return split_name(self.name)[0]

    @property
    def resource_name(self) -> str:
        """The name for queues, Kubernetes objects and Azure resources, such as `classifier-v2`."""
        return self.name.replace(":", "-v")

    @property
    def job_percent(self) -> int:
        """The percentage of the new jobs that this version runs if callers request no version."""
        return self.versions.get(self.version, 0) if self.versions else 100

    def entry_of_input(self, name: str | None) -> "ModelEntry":
        """Return the entry with the media types and limits of a named input; None: of the first."""
        if name is None:
            return self
        found = self.inputs[name]
        return replace(
            self,
            media_types=found.media_types,
            max_input_bytes=found.max_input_bytes,
            max_upload_bytes=found.max_upload_bytes,
            max_pixels=found.max_pixels,
        )

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """The names of the named inputs that each job must have."""
        return tuple(name for name, each in self.inputs.items() if not each.optional)

    @property
    def max_all_inputs_bytes(self) -> int:
        """The largest total size in bytes of all inputs in one HTTP request."""
        return self.max_input_bytes + sum(each.max_input_bytes for each in self.inputs.values())

    @property
    def max_body_bytes(self) -> int:
        """The largest size in bytes of a request with all inputs, of which base64 adds a third."""
        return self.max_all_inputs_bytes * 4 // 3 + ENVELOPE_BYTES

    @property
    def host_limit_bytes(self) -> int:
        """The size above which the Functions host may refuse the body of a request."""
        limit_bytes = self.max_body_bytes + _HOST_MARGIN_BYTES
        if self.max_input_bytes <= _LARGEST_UNSTREAMED_BYTES:
            return limit_bytes
        return max(limit_bytes, self.max_input_bytes + _STREAM_MARGIN_BYTES)

    @property
    def max_url_bytes(self) -> int:
        """The largest size in bytes of an input that a worker downloads from a caller's URL."""
        return max(self.max_input_bytes, min(self.max_upload_bytes, DEFAULT_MAX_UPLOAD_BYTES))


def split_name(name: str) -> tuple[str, str]:
    """Return the model and the version in a name: `classifier` and `1` for `classifier`."""
    model, _, version = name.partition(":")
    return model, version or FIRST_VERSION


def join_name(model: str, version: str) -> str:
    """Return the name of a version: `classifier` for version 1, `classifier:2` for version 2."""
    return model if version == FIRST_VERSION else f"{model}:{version}"


def choose_version(percentages: Mapping[str, int], job_id: str) -> str:
    """Return the version that runs a new job, which is always the same for the same arguments."""
    point = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big") % 100
    for version, percent in percentages.items():
        if point < percent:
            return version
        point -= percent
    raise ValueError(f"the percentages must add up to 100, found {sum(percentages.values())}")


_DEFAULT_MAX_PIXELS: Final = 50_000_000
# The time to read a key grows with the square of its parts: 20,000 parts take 20 s.
_KEY_PART: Final = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY: Final = re.compile(rf"(?<![\w.-])(?:{_KEY_PART}){{50}}")


class Catalogue(Mapping[str, ModelEntry]):
    """A read-only mapping from model names to model entries, in the catalogue file's order."""

    def __init__(self, models: Mapping[str, ModelEntry]) -> None:
        self._models = dict(models)
        self._queues = {
            queue_of(model, priority): (model, priority)
            for model in self._models.values()
            for priority in Priority
        }

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> "Catalogue":
        """Read a catalogue file. Raises CatalogueError if the file is missing or not valid."""
        try:
            tables = _parse_toml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CatalogueError(f"cannot read the catalogue {path}: {error}") from None
        entries = [entry for name, table in tables.items() for entry in _read_versions(name, table)]
        catalogue = cls({entry.name: entry for entry in entries})
        if not catalogue:
            raise CatalogueError(
                f"the catalogue {path} has no models: add at least one table [NAME]"
            )
        queues = [model.queue for model in catalogue.values()]
        if twice := _find_twice(queues):
            raise CatalogueError(f"two models use the queue {twice}: give each model its own queue")
        if taken := {low_priority_queue(queue) for queue in queues} & set(queues):
            raise CatalogueError(
                f"the queue {min(taken)} is already another model's low-priority queue: "
                "choose another queue"
            )
        if twice := _find_twice([model.resource_name for model in catalogue.values()]):
            raise CatalogueError(
                f"{twice}: in a deployment, a version of another model has the same name; choose "
                "another name for one of the two models"
            )
        return catalogue

    def model(self, name: str) -> ModelEntry:
        """Return the model or the version with this name. `NAME` and `NAME:1` are the same entry.

        Raises UnknownModel, which suggests similar names.
        """
        found = self._models.get(name.removesuffix(f":{FIRST_VERSION}"))
        if found is None:
            raise UnknownModel(name, tuple(difflib.get_close_matches(name, self._models, n=2)))
        return found

    def versions(self, model: ModelEntry) -> dict[str, ModelEntry]:
        """Return all versions of a model, of which `model` is any one."""
        names = {version: join_name(model.model_name, version) for version in model.versions}
        return {version: self._models[name] for version, name in names.items()} or {
            model.version: model
        }

    def matching(self, name: str) -> tuple[ModelEntry, ...]:
        """Return the version `NAME:VERSION`, or all versions of `NAME`. Raises UnknownModel."""
        found = self.model(name)
        return (found,) if ":" in name else tuple(self.versions(found).values())

    def find_queue(self, queue: str) -> "tuple[ModelEntry, Priority] | None":
        """Return the model and the priority of the jobs in a queue; None if no model uses it."""
        return self._queues.get(queue)

    @property
    def body_limit_bytes(self) -> int:
        """The size above which the Functions host refuses the body of each request."""
        largest_bytes = max(model.host_limit_bytes for model in self.values())
        return min(largest_bytes, _MAX_BODY_LIMIT_BYTES)

    def __getitem__(self, name: str) -> ModelEntry:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def _find_twice(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _parse_toml(text: str) -> dict[str, Any]:
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 50 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("a value is nested too deep") from None


def _read_versions(name: str, table: object) -> list[ModelEntry]:
    """Read a model's table and the tables of its versions, such as `[classifier."2"]`."""
    if not isinstance(table, dict):
        raise CatalogueError(f"{name}: expected a table; begin it with [{name}]")
    if ":" in name:
        raise CatalogueError(
            f"{name}: the name of a model may have only lower-case letters, digits and dashes"
        )
    own = {key: value for key, value in table.items() if not _VERSION.fullmatch(key)}
    others = {key: value for key, value in table.items() if key not in own}
    if FIRST_VERSION in others:
        raise CatalogueError(
            f'{name}."{FIRST_VERSION}": version {FIRST_VERSION} is the table [{name}] itself; move '
            f"the keys to [{name}]"
        )
    first = _read_model(name, own)
    known = sorted([FIRST_VERSION, *others], key=int)
    percentages = {version: first.versions.get(version, 0) for version in known}
    for version in [*first.versions, *([first.fallback] if first.fallback else [])]:
        if version not in known:
            raise CatalogueError(
                f'{name}: version {version} does not exist; add a table [{name}."{version}"], or '
                "remove the version from the keys versions and fallback"
            )
    if first.fallback and not others:
        raise CatalogueError(f"{name}.fallback: the model has only one version; remove the key")
    if not first.versions:
        percentages[FIRST_VERSION] = 100
    entries = [
        first,
        *(_read_version(first, own, version, given) for version, given in others.items()),
    ]
    if not others:
        return entries
    return [_keep_worker(replace(entry, versions=percentages)) for entry in entries]


def _keep_worker(model: ModelEntry) -> ModelEntry:
    """Return the entry, with at least 1 as `min_workers` if it gets jobs and has a fallback.

    With 0, all jobs could go to the fallback, so that no job would start a worker of the version.
    """
    if model.fallback in {"", model.version} or not model.job_percent:
        return model
    count = max(model.min_workers, 1)
    warm_count = max(model.warm_workers, count + 1) if model.warm else 0
    return replace(model, min_workers=count, warm_workers=warm_count)


def _read_version(
    first: ModelEntry, inherited: Mapping[str, Any], version: str, table: object
) -> ModelEntry:
    name = join_name(first.name, version)
    if not isinstance(table, dict):
        raise CatalogueError(
            f'{first.name}."{version}": expected a table; begin it with [{first.name}."{version}"]'
        )
    for key in table:
        if key in _SHARED_KEYS:
            raise CatalogueError(
                f"{name}.{key}: all versions of a model must have the same {key}; set it in "
                f"[{first.name}], or make this version a model of its own"
            )
    dropped = {"queue"}.union(*(_DEPENDENT_KEYS.get(key, ()) for key in table))
    kept = {key: value for key, value in inherited.items() if key not in dropped}
    return _read_model(name, {**kept, **table})


def _read_model(name: str, table: Mapping[str, Any]) -> ModelEntry:
    known = {each.name: each for each in fields(ModelEntry) if each.name != "name"}
    for key in table:
        if key not in known:
            raise CatalogueError(
                f"{name}.{key}: this key does not exist; remove it or correct its name"
            )
    for key, each in known.items():
        if key not in table and each.default is MISSING and each.default_factory is MISSING:
            raise CatalogueError(f"{name}.{key}: the key is missing; add it")
    # `_add_defaults` reads the inputs, because other keys determine their defaults.
    values = {
        key: value if key == "inputs" else _read_value(name, key, value)
        for key, value in table.items()
    }
    model = _add_defaults(ModelEntry(name=name, **values), values)
    _check_inputs(model)
    _check_limits(model)
    _check_weights(model)
    return model


def _add_defaults(model: ModelEntry, given: Mapping[str, Any]) -> ModelEntry:
    """Set the defaults that depend on other keys, unless the keys are in `given`."""
    are_images = all(media_type.startswith("image/") for media_type in model.media_types)
    is_limited = "max_input_bytes" in given
    upload_bytes = model.max_input_bytes if is_limited else DEFAULT_MAX_UPLOAD_BYTES
    of_inputs = {
        "max_input_bytes": model.max_input_bytes,
        "max_upload_bytes": upload_bytes,
        "max_pixels": _DEFAULT_MAX_PIXELS,
    }
    inputs = read_inputs(f"{model.name}.inputs", given.get("inputs", {}), of_inputs)
    defaults: dict[str, Any] = {
        "queue": model.resource_name,
        "max_upload_bytes": upload_bytes,
        "max_pixels": _DEFAULT_MAX_PIXELS if are_images else 0,
        # A deadline that is longer than the default limit raises the limit.
        "max_deadline_seconds": max(model.max_deadline_seconds, model.deadline_seconds),
        "warm_workers": model.min_workers + 1 if model.warm else 0,
    }
    missing = {key: value for key, value in defaults.items() if key not in given}
    return replace(model, inputs=inputs, **missing)


def _read_value(name: str, key: str, value: Any) -> Any:
    expected = {each.name: each.type for each in fields(ModelEntry)}[key]
    if (read := _READERS.get(key)) is not None:
        return read(f"{name}.{key}", value)
    if expected is str and isinstance(value, str) and value:
        return value
    if expected is bool and isinstance(value, bool):
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if expected not in (str, int, bool) and texts and value:
        return tuple(value)
    names = {str: "a non-empty string", int: "a whole number of at least 0", bool: "true or false"}
    wanted = names.get(expected, "a non-empty list of strings")  # type: ignore[arg-type]
    raise CatalogueError(f"{name}.{key}: expected {wanted}, found {value!r:.100}")


def _read_percentages(path: str, value: Any) -> Mapping[str, int]:
    are_numbers = isinstance(value, dict) and all(
        isinstance(percent, int) and not isinstance(percent, bool) and percent >= 0
        for percent in value.values()
    )
    if not are_numbers:
        raise CatalogueError(
            f"{path}: expected a table with the percentage of each version as a whole number, for "
            'example {"1" = 95, "2" = 5}'
        )
    if (total := sum(value.values())) != 100:
        raise CatalogueError(f"{path}: the percentages add up to {total}, not to 100")
    return MappingProxyType(value)


def _read_options(path: str, value: Any) -> Mapping[str, Option]:
    if not isinstance(value, dict):
        raise CatalogueError(f'{path}: expected a table, for example {{architecture = "…"}}')
    for key, option in value.items():
        if not key.isidentifier() or key == "weights":
            raise CatalogueError(
                f"{path}.{key}: an option's name must be a Python identifier other than weights"
            )
        if not isinstance(option, str | int | float | bool):
            raise CatalogueError(
                f"{path}.{key}: expected a string, a number, true or false, found {option!r:.100}"
            )
    return MappingProxyType(value)


def _read_operations(path: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise CatalogueError(f"{path}: expected a list of operations, found {value!r:.100}")
    for each in value:
        if each not in OPENAI_OPERATIONS:
            raise CatalogueError(
                f"{path}: {each!r:.100} is not an operation of the OpenAI API that this version "
                f"knows; expected one of {', '.join(OPENAI_OPERATIONS)}"
            )
    return tuple(value)


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "openai": _read_operations,
    "options": _read_options,
    "parameters": read_schemas,
    "results": read_results,
    "versions": _read_percentages,
    "warm": read_periods,
}


def _check_limits(model: ModelEntry) -> None:
    for key, text in (("name", model.resource_name), ("queue", model.queue)):
        if not _NAME.fullmatch(text):
            raise CatalogueError(
                f"{model.name}.{key}: expected 1 to 63 lower-case letters, digits and dashes, "
                f"found {getattr(model, key)!r:.100}"
            )
    # Service Bus accepts lock durations from 5 s to 5 min. The Durable Functions SDK splits a timer
    # of more than 6 days into several timers, and cannot cancel those.
    for key, low, high in (
        ("lock_seconds", 5, 300),
        ("max_delivery_count", 1, 2000),
        ("max_batch_size", 1, 4096),
        ("max_run_seconds", 1, 6 * 24 * 3600),
        ("max_concurrent_jobs", 1, 1024),
        ("gpus", 1, 16),
        ("max_input_bytes", 1, _MAX_INPUT_BYTES),
        ("max_upload_bytes", model.max_input_bytes, _MAX_UPLOAD_BYTES),
        ("deadline_seconds", 1, model.max_deadline_seconds),
        ("max_deadline_seconds", 1, 6 * 24 * 3600),
        ("min_workers", 0, 1000),
        ("warm_workers", model.min_workers + 1 if model.warm else 0, 1001),
    ):
        if not low <= getattr(model, key) <= high:
            raise CatalogueError(
                f"{model.name}.{key}: expected a number from {low} to {high}, "
                f"found {getattr(model, key)}"
            )
    if model.warm_workers and not model.warm:
        raise CatalogueError(
            f"{model.name}.warm: the key is missing, although warm_workers is set; add warm, or "
            "remove warm_workers"
        )
    if not media.is_media_type(model.result_media_type):
        raise CatalogueError(
            f"{model.name}.result_media_type: expected a media type such as image/png, found "
            f"{model.result_media_type!r:.100}"
        )


def _check_inputs(model: ModelEntry) -> None:
    for name in model.inputs:
        if name in model.parameters:
            raise CatalogueError(
                f"{model.name}.inputs.{name}: a parameter of the model has the same name; rename "
                "the input or the parameter"
            )
        upload_bytes = model.inputs[name].max_upload_bytes
        if upload_bytes > _MAX_UPLOAD_BYTES:
            raise CatalogueError(
                f"{model.name}.inputs.{name}.max_upload_bytes: expected at most "
                f"{_MAX_UPLOAD_BYTES}, found {upload_bytes}"
            )
    if model.max_all_inputs_bytes > _MAX_INPUT_BYTES and model.inputs:
        raise CatalogueError(
            f"{model.name}.inputs: the sum of max_input_bytes of all inputs is "
            f"{model.max_all_inputs_bytes}; expected at most {_MAX_INPUT_BYTES}"
        )


def _check_weights(model: ModelEntry) -> None:
    if model.weights_sha256 and not _SHA256.fullmatch(model.weights_sha256):
        raise CatalogueError(
            f"{model.name}.weights_sha256: expected 64 hexadecimal digits in lower case, found "
            f"{model.weights_sha256!r:.100}"
        )
    if model.weights_sha256 and not model.weights:
        raise CatalogueError(
            f"{model.name}.weights: the key is missing, although weights_sha256 is set; add "
            "weights, or remove weights_sha256"
        )
    if not model.weights:
        return
    try:
        location = parse_weights(model.weights)
    except ValueError as error:
        raise CatalogueError(f"{model.name}.weights: {error}") from None
    if location.needs_digest and not model.weights_sha256:
        raise CatalogueError(
            f"{model.name}.weights_sha256: the key is missing, but weights that begin with "
            f"'{location.scheme}:' need it; run `loosely models lock {model.model_name}`"
        )


def check_workers(catalogue: Catalogue, served: Collection[str]) -> None:
    """Check that the workers serve each version that gets jobs, or serve its fallback.

    `served` has the names of the models and versions that the workers serve. Other workers may
    serve the models of which these serve no version. Raises CatalogueError or UnknownModel.
    """
    names = {catalogue.model(name).name for name in served}
    for model in catalogue.values():
        versions = catalogue.versions(model)
        falls_back = model.fallback and versions[model.fallback].name in names
        is_elsewhere = names.isdisjoint(each.name for each in versions.values())
        if model.job_percent and not (model.name in names or falls_back or is_elsewhere):
            raise CatalogueError(
                f"version {model.version} of {model.model_name} gets {model.job_percent} % of "
                f"the jobs, but no worker serves it: add {model.name} to WORKER_MODELS, set its "
                "percentage in versions to 0, or add the key fallback"
            )


class Priority(StrEnum):
    """The priority of a job. A worker runs a low-priority job only if no normal job is queued."""

    NORMAL = "normal"
    LOW = "low"

    @property
    def higher(self) -> tuple["Priority", ...]:
        """All priorities that are higher than this priority."""
        return (Priority.NORMAL,) if self is Priority.LOW else ()


def queue_of(model: ModelEntry, priority: Priority) -> str:
    """Return the name of the model's queue for jobs with this priority."""
    return low_priority_queue(model.queue) if priority is Priority.LOW else model.queue


def format_entry(model: ModelEntry) -> str:
    """Return an entry in TOML with all defaults, without the keys that have no value.

    The entry of a version other than the first omits the keys that all versions share.
    """
    values = {each.name: getattr(model, each.name) for each in fields(model)}
    for key in ("inputs", "results"):
        values[key] = {name: asdict(each) for name, each in values[key].items()}
    header, omitted = model.name, {"name"}
    if not model.versions:
        omitted.add("versions")
    if model.version != FIRST_VERSION:
        header = f'{model.model_name}."{model.version}"'
        omitted |= _SHARED_KEYS
    lines = [
        f"{key} = {to_toml(value)}"
        for key, value in values.items()
        if key not in omitted and value != ""
    ]
    return "\n".join([f"[{header}]", *lines])


def to_toml(value: Any) -> str:
    """Return the TOML text of a value: a string, number, boolean, list or mapping."""
    match value:
        case bool():
            return "true" if value else "false"
        case Mapping():
            members = [
                f"{key if _BARE_KEY.fullmatch(key) else to_toml(key)} = {to_toml(each)}"
                for key, each in value.items()
            ]
            return f"{{{', '.join(members)}}}"
        case list() | tuple():
            return f"[{', '.join(map(to_toml, value))}]"
        case int() | float():
            return repr(value)
    # A JSON string is also a basic string of TOML, except for the character U+007F.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
