"""`python -m worker.tools.describe NAME`: print what a model's class declares as TOML.

For a module without an entry in the catalogue, the command prints a whole entry, and `--write`
appends it. NAME stands for the module `models.NAME`, or is a module if it has a dot. The exit code
is 1 if the declarations cannot be described, and 2 if NAME or a setting is invalid.
"""

import argparse
import importlib.util
import inspect
import os
import re
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from contract import media
from contract.catalogue import Catalogue, ModelEntry, to_toml
from contract.errors import CatalogueError, ContractError, InvalidSetting, UnknownModel
from contract.named_tables import NamedInput, NamedResult
from contract.parameters import Schema
from worker.errors import ModelFailed, ModelUnfit, WorkerError
from worker.inference.declarations import (
    InputArgument,
    ResultDeclaration,
    read_arguments,
    read_declared_results,
    read_input_arguments,
)
from worker.inference.model_checks import DECODABLE_TYPES, ModelKind, kind_of
from worker.inputs.opened import Accepts
from worker.settings import CheckSettings
from worker.tools.lock_weights import replace_text

MEDIA_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    **DECODABLE_TYPES,
    "bytes": (media.OCTET_STREAM,),
    "text": (media.TEXT,),
}
"""The media types of an input that the catalogue does not declare yet."""

T = TypeVar("T")

_ACCEPTED: Final[Mapping[str, Accepts]] = {
    "Image": "image",
    "Audio": "audio",
    "bytes": "bytes",
    "str": "text",
    "ndarray": "tensor",
    "NDArray": "tensor",
    "BufferedIOBase": "file",
}
# What a generator yields.
_YIELDED: Final = re.compile(r"(?:\w+\.)*(?:Async)?(?:Iterator|Iterable|Generator)\[(\w+).*\]")
_RETURNED: Final = {"Image": "image/png", "bytes": media.OCTET_STREAM, "str": media.TEXT}


@dataclass(frozen=True, slots=True)
class ModelDeclarations:
    """The tables of the catalogue entry for what a model's class declares, by name."""

    parameters: Mapping[str, Schema]
    inputs: Mapping[str, dict[str, Any]]
    results: Mapping[str, dict[str, Any]]


def describe(infer: type, entry: ModelEntry | None) -> ModelDeclarations:
    """Return what a model's class declares, with the media types of the entry if it has them."""
    method = _method(infer)
    inputs = {
        name: _describe_input(entry.inputs.get(name) if entry else None, each)
        for name, each in read_input_arguments(method).items()
    }
    results = {
        name: _describe_result(entry.results.get(name) if entry else None, each)
        for name, each in read_declared_results(infer).items()
    }
    return ModelDeclarations(read_arguments(method), inputs, results)


def _import_class(module: str) -> type:
    infer: Any = getattr(importlib.import_module(module), "Infer", None)
    if not isinstance(infer, type):
        raise ModelUnfit(f"{module}: the module has no class Infer")
    return infer


def _method(infer: type) -> Callable[..., Any]:
    """Return the method that takes an input, its parameters and its named inputs."""
    # `infer.__call__` would be the method of `type` that creates an object.
    call = inspect.getattr_static(infer, "__call__", None)
    method: Callable[..., Any] | None = getattr(infer, "preprocess", None) or call
    if method is None:
        raise ModelUnfit(f"{infer.__module__}: the class Infer has no method __call__")
    return method


def describe_entry(module: str, infer: type) -> dict[str, Any]:
    """Return the first keys of an entry. Media types come from type hints, or are JSON."""
    call = inspect.getattr_static(infer, "__call__")
    inputs, contexts = _positional(_method(infer)), _positional(call)[1:]
    returned = _hint(inspect.signature(getattr(infer, "postprocess", call)).return_annotation)
    if hasattr(infer, "preprocess") and not hasattr(infer, "postprocess"):
        returned = returned.removeprefix("list[").removesuffix("]")
    if found := _YIELDED.fullmatch(returned):
        returned = found[1]
    text = inspect.cleandoc(infer.__doc__ or sys.modules[module].__doc__ or "").strip()
    accepts = getattr(infer, "accepts", None) or _find(_ACCEPTED, "".join(inputs[:1])) or "json"
    return {
        "implementation": module,
        "description": text.splitlines()[0] if text else f"{module}.",
        "media_types": list(MEDIA_TYPES.get(accepts, MEDIA_TYPES["bytes"])),
        "result_media_type": _find(_RETURNED, returned) or media.JSON,
        "reports_progress": any("Context" in hint for hint in contexts)
        or kind_of(infer) is ModelKind.CONCURRENT,
    }


def _positional(method: Callable[..., Any]) -> list[str]:
    """Return the type hints of the arguments of a method that follow `self`, as text."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [each for each in parameters if each.kind in kinds and each.name != "parameters"]
    return [_hint(each.annotation) for each in found]


def _hint(annotation: Any) -> str:
    """Return the name of a type hint as text, because many exist only for type checkers."""
    if isinstance(annotation, type):
        annotation = annotation.__qualname__
    return "" if annotation is inspect.Parameter.empty else str(annotation)


def _find(kinds: Mapping[str, T], hint: str) -> T | None:
    """Return the value whose key is the type hint, also with a module, arguments or `| None`."""
    pattern = r"(?:\w+\.)*{}(?:\[.*\])?(?: \| None)?"
    found = (kind for name, kind in kinds.items() if re.fullmatch(pattern.format(name), hint))
    return next(found, None)


def write_entry(catalogue: Path, entry: str) -> None:
    """Append an entry to the catalogue, or raise ContractError if that would not be valid."""
    text = catalogue.read_text(encoding="utf-8")
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / catalogue.name
        changed.write_text(text + separator + entry, encoding="utf-8")
        Catalogue.load(changed)
    replace_text(catalogue, text + separator + entry)


def _describe_input(entry: NamedInput | None, argument: InputArgument) -> dict[str, Any]:
    """Return the catalogue entry of a named input."""
    types = entry.media_types if entry else MEDIA_TYPES[argument.accepts]
    return {"media_types": list(types), **_given_keys(argument)}


def _describe_result(entry: NamedResult | None, declared: ResultDeclaration) -> dict[str, Any]:
    """Return the catalogue entry of a named result."""
    media_type = entry.media_type if entry else declared.default_media_type
    return {"media_type": media_type, **_given_keys(declared)}


def _given_keys(declared: InputArgument | ResultDeclaration) -> dict[str, Any]:
    keys = {"optional": declared.optional, "description": declared.description}
    return {key: value for key, value in keys.items() if value}


def _find_entry(catalogue: Path, name: str) -> ModelEntry | None:
    """Return the model's entry, or None if only a module for it exists, or raise ContractError."""
    try:
        return Catalogue.load(catalogue).model(name)
    except UnknownModel:
        if not _has_module(_module_of(name)):
            raise
    except CatalogueError:
        if tomllib.loads(catalogue.read_text(encoding="utf-8")) or not _has_module(
            _module_of(name)
        ):
            raise
    return None


def _module_of(name: str) -> str:
    return name if "." in name else f"models.{name.replace('-', '_')}"


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _format(name: str, entry: Mapping[str, Any], found: ModelDeclarations) -> str:
    """Return the lines for the catalogue: the declarations, below a new entry if there is none."""
    lines = []
    if entry:
        defaults = {"result_media_type": media.JSON, "reports_progress": False}
        lines += [f"[{name}]"]
        lines += [
            f"{key} = {to_toml(value)}"
            for key, value in entry.items()
            if value != defaults.get(key)
        ]
    for key, tables in (
        ("parameters", found.parameters),
        ("inputs", found.inputs),
        ("results", found.results),
    ):
        lines += [f"{key}.{each} = {to_toml(table)}" for each, table in tables.items()]
    return "".join(f"{line}\n" for line in lines)


def _run(name: str, catalogue: Path, output: TextIO, *, is_written: bool) -> None:
    entry = _find_entry(catalogue, name)
    if entry is not None and is_written:
        raise InvalidSetting(
            f"{name} has an entry in {catalogue} already: copy the lines that this command prints "
            "without --write into it"
        )
    module = entry.implementation if entry else _module_of(name)
    infer = _import_class(module)
    found = describe(infer, entry)
    if not found.parameters:
        sys.stderr.write(f"{name} has no parameters\n")
    if entry:
        sys.stderr.write(f"{name} may run for {entry.max_run_seconds} s (max_run_seconds)\n")
        if kind_of(infer) is ModelKind.CONCURRENT:
            count = entry.max_concurrent_jobs
            sys.stderr.write(f"{name} may run {count} jobs at once (max_concurrent_jobs)\n")
    new = {} if entry else describe_entry(module, infer)
    if new and not hasattr(infer, "accepts"):
        sys.stderr.write(f"check media_types: {module}.Infer has no attribute accepts\n")
    text = _format(name.rpartition(".")[2].replace("_", "-"), new, found)
    output.write(text)
    output.flush()
    if is_written:
        write_entry(catalogue, text)
        sys.stderr.write(f"the entry was added to {catalogue}\n")


def main(arguments: list[str], environ: dict[str, str], output: TextIO) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.tools.describe",
        description="Print a model's parameters, named inputs and named results as TOML, or a "
        "whole entry for a model that the catalogue does not contain.",
    )
    parser.add_argument("name", help="the model's name in the catalogue, or its module")
    parser.add_argument("--write", action="store_true", help="append the entry to the catalogue")
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        _run(parsed.name, settings.catalogue, output, is_written=parsed.write)
    except (ContractError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except WorkerError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    except (Exception, SystemExit) as error:  # noqa: BLE001  a model's code may raise anything
        traceback.print_exception(error)
        failed = ModelFailed.from_error(parsed.name, error)
        sys.stderr.write(f"{failed.code}: {failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    # What the model's code prints goes to standard error, so that it is not mixed with the lines.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:], dict(os.environ), lines))
