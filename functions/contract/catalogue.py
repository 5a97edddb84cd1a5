"""The model catalogue: models.toml as frozen data, and the queues of its models."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from contract import media
from contract.errors import CatalogueError, UnknownModel
from contract.names import low_priority_queue

DEFAULT_PATH = Path(__file__).with_name("models.toml")

# The limit of a single Put Blob, so that one request fills an upload slot.
_MAX_UPLOAD_BYTES = 5000 * 1024 * 1024

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# The names of a container and a blob, or of a Python package and a file in it.
_WEIGHTS = re.compile(r"(?:blob:[a-z0-9-]{3,63}|package:\w+)/[^\\\x00-\x1f]{1,1024}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")

Option = str | int | float | bool
"""A value of a model's `options` in TOML."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the catalogue.

    `implementation` is the worker's module with the class `Infer`. A lock lasts `lock_seconds`
    and is renewed while the job is held; after `max_delivery_count` deliveries without an outcome
    the message goes to the dead-letter queue. `max_pixels` is 0 if the input is not a picture.
    `max_input_bytes` limits a request's body, `max_upload_bytes` an upload; they are equal unless
    the catalogue has both. If the model `reports_progress`, its worker reports how far a job is,
    and learns by the answer that the job was cancelled.

    `weights` is the place of the model's weights, as `blob:CONTAINER/NAME` or
    `package:PACKAGE/PATH`, empty if it has none. `weights_sha256` is their digest, required for a
    blob. `options` are arguments of the constructor of `Infer`. `memory_bytes` is the device
    memory that the model needs; 0 means that it is measured. `result_media_type` is JSON, a
    picture or any bytes. `uses_gpu` is whether a deployment gives the model's workers a GPU.
    """

    name: str
    task: str
    description: str
    implementation: str
    queue: str
    media_types: tuple[str, ...]
    max_input_bytes: int
    deadline_seconds: int
    max_deadline_seconds: int
    max_batch_size: int
    max_wait_ms: int
    lock_seconds: int
    max_delivery_count: int
    max_pixels: int = 0
    max_upload_bytes: int = 0
    reports_progress: bool = False
    weights: str = ""
    weights_sha256: str = ""
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)
    memory_bytes: int = 0
    uses_gpu: bool = True
    result_media_type: str = media.JSON


class Catalogue(Mapping[str, ModelEntry]):
    """The models by name, in the order of the file."""

    def __init__(self, models: Mapping[str, ModelEntry]) -> None:
        self._models = dict(models)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> "Catalogue":
        """Read a catalogue file. Raises CatalogueError, which names the model and the key."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CatalogueError(f"cannot read the catalogue {path}: {error}") from None
        catalogue = cls({name: _read_model(name, table) for name, table in tables.items()})
        if not catalogue:
            raise CatalogueError(f"the catalogue {path} has no model")
        queues = [model.queue for model in catalogue.values()]
        if len(set(queues)) < len(queues):
            raise CatalogueError("two models share a queue: each needs one of its own")
        if taken := {low_priority_queue(queue) for queue in queues} & set(queues):
            raise CatalogueError(
                f"{min(taken)} is another model's queue for low priority: choose another name"
            )
        return catalogue

    def model(self, name: str) -> ModelEntry:
        """Return the model of this name. Raises UnknownModel with the nearest names."""
        if name not in self._models:
            raise UnknownModel(name, tuple(difflib.get_close_matches(name, self._models, n=2)))
        return self._models[name]

    def __getitem__(self, name: str) -> ModelEntry:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def _read_model(name: str, table: object) -> ModelEntry:
    if not isinstance(table, dict):
        raise CatalogueError(f"{name}: expected a table, write [{name}]")
    known = {each.name: each for each in fields(ModelEntry) if each.name != "name"}
    for key in table:
        if key not in known:
            raise CatalogueError(f"{name}.{key}: unknown key")
    for key, each in known.items():
        if key not in table and each.default is MISSING and each.default_factory is MISSING:
            raise CatalogueError(f"{name}.{key}: is missing")
    values = {key: _read_value(name, key, value) for key, value in table.items()}
    model = ModelEntry(name=name, **{"max_upload_bytes": values["max_input_bytes"], **values})
    _check_limits(model)
    _check_weights(model)
    return model


def _read_value(name: str, key: str, value: Any) -> Any:
    expected = {each.name: each.type for each in fields(ModelEntry)}[key]
    if key == "options":
        return _read_options(name, value)
    if expected is str and isinstance(value, str) and value:
        return value
    if expected is bool and isinstance(value, bool):
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if expected not in (str, int, bool) and texts and value:
        return tuple(value)
    names = {str: "a text", int: "a whole number from 0", bool: "true or false"}
    wanted = names.get(expected, "a list of texts")  # type: ignore[arg-type]
    raise CatalogueError(f"{name}.{key}: expected {wanted}")


def _read_options(name: str, value: Any) -> Mapping[str, Option]:
    if not isinstance(value, dict):
        raise CatalogueError(f'{name}.options: expected a table, such as {{architecture = "…"}}')
    for key, option in value.items():
        if not key.isidentifier() or key == "weights":
            raise CatalogueError(f"{name}.options.{key}: is not a valid name of an option")
        if not isinstance(option, str | int | float | bool):
            raise CatalogueError(f"{name}.options.{key}: expected a text, a number, true or false")
    return MappingProxyType(value)


def _check_limits(model: ModelEntry) -> None:
    for key in ("name", "queue"):
        if not _NAME.fullmatch(getattr(model, key)):
            raise CatalogueError(f"{model.name}.{key}: small letters, digits and dashes only")
    # Service Bus accepts locks from 5 s to 5 min. Over 6 days the durable SDK splits a timer and
    # cannot cancel it.
    for key, low, high in (
        ("lock_seconds", 5, 300),
        ("max_delivery_count", 1, 2000),
        ("max_batch_size", 1, 4096),
        ("max_input_bytes", 1, 100 * 1024 * 1024),
        ("max_upload_bytes", model.max_input_bytes, _MAX_UPLOAD_BYTES),
        ("deadline_seconds", 1, model.max_deadline_seconds),
        ("max_deadline_seconds", 1, 6 * 24 * 3600),
    ):
        if not low <= getattr(model, key) <= high:
            raise CatalogueError(f"{model.name}.{key}: expected {low} to {high}")
    if not _MEDIA_TYPE.fullmatch(model.result_media_type):
        raise CatalogueError(f"{model.name}.result_media_type: expected one such as image/png")


def _check_weights(model: ModelEntry) -> None:
    is_blob = model.weights.startswith("blob:")
    if model.weights and not _WEIGHTS.fullmatch(model.weights):
        raise CatalogueError(
            f"{model.name}.weights: expected blob:CONTAINER/NAME or package:PACKAGE/PATH"
        )
    if model.weights_sha256 and not _SHA256.fullmatch(model.weights_sha256):
        raise CatalogueError(f"{model.name}.weights_sha256: expected 64 small hex digits")
    # Write access to the container must not be enough to choose the code that runs.
    if is_blob and not model.weights_sha256:
        raise CatalogueError(f"{model.name}.weights_sha256: is missing, and a blob needs it")
    if model.weights_sha256 and not model.weights:
        raise CatalogueError(f"{model.name}.weights: is missing, but weights_sha256 is there")


class Priority(StrEnum):
    """The priority of a job. Workers take a low one only while no normal one waits."""

    NORMAL = "normal"
    LOW = "low"

    @property
    def higher(self) -> tuple["Priority", ...]:
        """The priorities whose jobs all run before a job of this one."""
        return _HIGHER[self]


_HIGHER: Final = {Priority.NORMAL: (), Priority.LOW: (Priority.NORMAL,)}


def queue_of(model: ModelEntry, priority: Priority) -> str:
    """Return the name of the queue for a model's jobs of this priority."""
    return low_priority_queue(model.queue) if priority is Priority.LOW else model.queue


def find_queue(catalogue: Catalogue, queue: str) -> tuple[ModelEntry, Priority] | None:
    """Return the model and the priority of a queue; None if it is not a model's queue."""
    pairs = ((model, priority) for model in catalogue.values() for priority in Priority)
    return next((pair for pair in pairs if queue_of(*pair) == queue), None)
