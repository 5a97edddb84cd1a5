"""The model catalogue: models.toml as frozen data, refused by name where it is wrong."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contract import media
from contract.errors import CatalogueError, UnknownModel
from contract.names import low_priority_queue

DEFAULT_PATH = Path(__file__).with_name("models.toml")

# What Azure takes in a single Put Blob, so that one request fills an upload slot.
_MAX_UPLOAD_BYTES = 5000 * 1024 * 1024

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# A container's name and a blob's, or a Python package and a file in it.
_WEIGHTS = re.compile(r"(?:blob:[a-z0-9-]{3,63}|package:\w+)/[^\\\x00-\x1f]{1,1024}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")

Option = str | int | float | bool
"""What a model's class can be given in its entry: one value of TOML."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model as the catalogue describes it.

    `implementation` is the worker's module with the class `Infer`. A lock lasts `lock_seconds`
    and is renewed while the job is held; after `max_delivery_count` deliveries without an outcome
    the message goes to the dead-letter queue. `max_pixels` is 0 where the input is no picture.
    `max_input_bytes` limits a request's body; what is uploaded beforehand may have up to
    `max_upload_bytes`, which is the same unless the catalogue says more. A model that
    `reports_progress` runs long: it tells how far it is, and hears so that it was cancelled.

    `weights` is where the model's weights are, as `blob:CONTAINER/NAME` or `package:PACKAGE/PATH`,
    empty where it needs none, and `weights_sha256` says which bytes are meant: always for a blob.
    `options` go to the constructor of `Infer` by their names. `memory_bytes` is how much of the
    device the model takes, as far as somebody knows; 0 where it is to be found out.
    `result_media_type` is what a result is: JSON, a picture or any bytes. `uses_gpu` says whether a
    deployment gives the model's workers a GPU.
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


class Catalogue(Mapping[str, Model]):
    """The models by name, in the order of the file."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> "Catalogue":
        """Read a catalogue file; CatalogueError says what is wrong and where."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CatalogueError(f"cannot read the catalogue {path}: {error}") from None
        catalogue = cls({name: _model(name, table) for name, table in tables.items()})
        if not catalogue:
            raise CatalogueError(f"the catalogue {path} names no model")
        queues = [model.queue for model in catalogue.values()]
        if len(set(queues)) < len(queues):
            raise CatalogueError("two models share a queue: each needs one of its own")
        if taken := {low_priority_queue(queue) for queue in queues} & set(queues):
            raise CatalogueError(
                f"{min(taken)} is another model's queue for low priority: name it otherwise"
            )
        return catalogue

    def model(self, name: str) -> Model:
        """The model of this name, or UnknownModel with the nearest names."""
        if name not in self._models:
            raise UnknownModel(name, tuple(difflib.get_close_matches(name, self._models, n=2)))
        return self._models[name]

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def _model(name: str, table: object) -> Model:
    if not isinstance(table, dict):
        raise CatalogueError(f"{name}: expected a table, write [{name}]")
    known = {each.name: each for each in fields(Model) if each.name != "name"}
    for key in table:
        if key not in known:
            raise CatalogueError(f"{name}.{key}: unknown key")
    for key, each in known.items():
        if key not in table and each.default is MISSING and each.default_factory is MISSING:
            raise CatalogueError(f"{name}.{key}: is missing")
    values = {key: _value(name, key, value) for key, value in table.items()}
    model = Model(name=name, **{"max_upload_bytes": values["max_input_bytes"], **values})
    _check(model)
    _check_weights(model)
    return model


def _value(name: str, key: str, value: Any) -> Any:
    expected = {each.name: each.type for each in fields(Model)}[key]
    if key == "options":
        return _options(name, value)
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


def _options(name: str, value: Any) -> Mapping[str, Option]:
    if not isinstance(value, dict):
        raise CatalogueError(f'{name}.options: expected a table, such as {{architecture = "…"}}')
    for key, option in value.items():
        if not key.isidentifier() or key == "weights":
            raise CatalogueError(f"{name}.options.{key}: is no name of an option")
        if not isinstance(option, str | int | float | bool):
            raise CatalogueError(f"{name}.options.{key}: expected a text, a number, true or false")
    return MappingProxyType(value)


def _check(model: Model) -> None:
    for key in ("name", "queue"):
        if not _NAME.fullmatch(getattr(model, key)):
            raise CatalogueError(f"{model.name}.{key}: small letters, digits and dashes only")
    # 5 s and 5 min are what Service Bus takes; over 6 days the durable SDK splits a timer, and then
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


def _check_weights(model: Model) -> None:
    is_blob = model.weights.startswith("blob:")
    if model.weights and not _WEIGHTS.fullmatch(model.weights):
        raise CatalogueError(
            f"{model.name}.weights: expected blob:CONTAINER/NAME or package:PACKAGE/PATH"
        )
    if model.weights_sha256 and not _SHA256.fullmatch(model.weights_sha256):
        raise CatalogueError(f"{model.name}.weights_sha256: expected 64 small hex digits")
    # Who can write to the container must not be able to choose what runs here.
    if is_blob and not model.weights_sha256:
        raise CatalogueError(f"{model.name}.weights_sha256: is missing, and a blob needs it")
    if model.weights_sha256 and not model.weights:
        raise CatalogueError(f"{model.name}.weights: is missing, but weights_sha256 is there")
