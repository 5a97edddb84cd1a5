"""Check a model's class against the model's catalogue entry, before the model receives jobs.

All functions raise ModelUnfit if the class or the entry cannot be used.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, cast, get_args

from contract import media
from contract.catalogue import ModelEntry
from worker.errors import ModelUnfit
from worker.inference.declarations import (
    InputArgument,
    read_arguments,
    read_input_arguments,
    read_results_class,
    returned_results,
)
from worker.inputs.audio import RATES
from worker.models import Accepts, Loading, Weights

_KINDS: Final[tuple[Accepts, ...]] = get_args(Accepts)
# The media types that can be decoded, by kind of input.
_DECODED: Final = {
    "image": ("image/jpeg", "image/png", "image/webp"),
    "audio": ("audio/wav", "audio/x-wav", "audio/vnd.wave"),
}
DECODABLE_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    **_DECODED,
    "json": (media.JSON,),
    "tensor": ("application/x-npy", media.JSON),
}
"""The only media types of a named input, by its kind. Text may have all types of text."""


class ModelKind(StrEnum):
    """How a model is called: with one item, with a batch, or with many items at once."""

    ITEM = "item"
    BATCH = "batch"
    CONCURRENT = "concurrent"


def kind_of(infer: Any) -> ModelKind:
    """Return the kind of a model. `infer` is its class `Infer`, or an instance of it."""
    call = inspect.getattr_static(infer, "__call__", None)
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        return ModelKind.CONCURRENT
    return ModelKind.BATCH if hasattr(infer, "preprocess") else ModelKind.ITEM


def make_instance(
    model: ModelEntry,
    make: Callable[..., Any],
    weights: Weights | None,
    loading: Loading,
) -> Any:
    """Create an instance of `Infer` with the options of the catalogue entry and the weights.

    The constructor gets `loading` if it has an argument with this name.
    """
    arguments: dict[str, object] = dict(model.options)
    if weights is not None:
        arguments["weights"] = weights
    parameters = inspect.signature(make).parameters
    if "loading" in parameters:
        arguments["loading"] = loading
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for name in arguments:
        if name not in parameters and not takes_any:
            field = name if name == "weights" else f"options.{name}"
            raise ModelUnfit(
                f"{model.name}.{field}: the constructor of {model.implementation} has no such "
                "argument; remove the key, or add the argument"
            )
    for name, each in parameters.items():
        is_variable = each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        if each.default is each.empty and not is_variable and name not in arguments:
            field = name if name == "weights" else f"options.{name}"
            raise ModelUnfit(
                f"{model.name}.{field}: the catalogue entry does not contain this key, but "
                f"{model.implementation} requires it"
            )
    return make(**arguments)


def check_methods(model: ModelEntry, infer: Any) -> None:
    """Check that an instance of `Infer` can be called as an item model or a batch model."""
    if not callable(infer):
        raise ModelUnfit(f"{model.implementation}: the class Infer has no method __call__")
    for name in ("max_batch_size", "max_wait_ms", "max_concurrent_jobs"):
        limit, value = getattr(infer, name, None), getattr(model, name)
        if limit is not None and value > limit:
            raise ModelUnfit(
                f"{model.name}.{name}: the value is {value}, but the model allows at most {limit}"
            )
    for name in ("preprocess", "postprocess"):
        if hasattr(infer, name) and not callable(getattr(infer, name)):
            raise ModelUnfit(f"{model.implementation}: Infer.{name} is not a method")
    if kind_of(infer) is ModelKind.CONCURRENT:
        _check_concurrent(model, infer)
    is_batch_model = hasattr(infer, "preprocess")
    if hasattr(infer, "postprocess") and not is_batch_model:
        raise ModelUnfit(
            f"{model.implementation}: Infer has postprocess but no preprocess; add the method "
            "preprocess, or postprocess the result in __call__"
        )
    _check_takes_context(model, infer)
    _check_parameters(model, infer.preprocess if is_batch_model else infer)


def _check_concurrent(model: ModelEntry, infer: Any) -> None:
    for name in ("preprocess", "postprocess"):
        if hasattr(infer, name):
            raise ModelUnfit(
                f"{model.implementation}: Infer has {name}, but an `async def __call__` runs one "
                f"item without it; call {name} in __call__, or write `def __call__`"
            )
    if not model.reports_progress:
        raise ModelUnfit(
            f"{model.name}.reports_progress: an `async def __call__` takes the item and the "
            "context; add reports_progress = true to the entry"
        )


def _check_parameters(model: ModelEntry, method: Callable[..., Any]) -> None:
    """Compare the parameters of the entry with those of the method, if it declares any."""
    try:
        declared = read_arguments(method)
    except ModelUnfit as error:
        raise ModelUnfit(f"{model.implementation}: {error}") from None
    if declared and declared != dict(model.parameters):
        raise _mismatch(model, "parameters", f"match the arguments of {model.implementation}")


def _mismatch(model: ModelEntry, key: str, expected: str) -> ModelUnfit:
    return ModelUnfit(
        f"{model.name}.{key}: the key does not {expected}; replace the key with "
        f"what `loosely models describe {model.name}` prints"
    )


def named_inputs(model: ModelEntry, infer: Any, accepts: Accepts) -> dict[str, InputArgument]:
    """Return the named inputs of the class, which the catalogue entry must also declare."""
    try:
        declared = read_input_arguments(infer.preprocess if hasattr(infer, "preprocess") else infer)
    except ModelUnfit as error:
        raise ModelUnfit(f"{model.implementation}: {error}") from None
    optional = {name: each.optional for name, each in declared.items()}
    if optional != {name: each.optional for name, each in model.inputs.items()}:
        raise _mismatch(model, "inputs", f"match the arguments of {model.implementation}")
    if declared and accepts == "file":
        raise ModelUnfit(
            f"{model.implementation}: Infer.accepts is 'file', which a model with named inputs "
            "cannot receive; use 'bytes'"
        )
    for name, each in declared.items():
        wanted = DECODABLE_TYPES.get(each.accepts, ())
        kinds = model.inputs[name].media_types
        if each.accepts == "text":
            unfit = [kind for kind in kinds if not kind.startswith("text/")]
        else:
            unfit = [kind for kind in kinds if wanted and kind not in wanted]
        if unfit:
            raise ModelUnfit(
                f"{model.name}.inputs.{name}.media_types: {unfit[0]} cannot be decoded as "
                f"{each.accepts}; use only {', '.join(wanted) or 'types that begin with text/'}"
            )
    return declared


def _check_takes_context(model: ModelEntry, infer: Any) -> None:
    """Check that `__call__` takes the context or contexts if `reports_progress` is true."""
    try:
        parameters = inspect.signature(infer).parameters.values()
    except ValueError:
        return  # a method that is written in C may have no signature
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.name != "parameters"
    ]
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    name = "contexts" if hasattr(infer, "preprocess") else "context"
    required = [each for each in positional if each.default is each.empty]
    if not model.reports_progress and len(required) > 1:
        raise ModelUnfit(
            f"{model.name}.reports_progress: {model.implementation} requires the argument "
            f"{required[1].name} of __call__; add reports_progress = true to the entry if it is "
            f"the {name}, or remove the argument"
        )
    if model.reports_progress and len(positional) < 2 and not takes_any:
        raise ModelUnfit(
            f"{model.name}.reports_progress: the key is true, but {model.implementation} takes no "
            f"context; add the argument {name} to __call__ after the input, or remove the key"
        )


def input_kind(model: ModelEntry, infer: object) -> Accepts:
    """Return what the model accepts: its attribute `accepts`, or by the entry's media types."""
    kind = _input_kind(model, infer)
    if decoded := _DECODED.get(kind):
        for media_type in model.media_types:
            if media_type.startswith(f"{kind}/") and media_type not in decoded:
                raise ModelUnfit(
                    f"{model.name}.media_types: {media_type} cannot be decoded; "
                    f"replace it with one of {', '.join(decoded)}"
                )
    return kind


def _input_kind(model: ModelEntry, infer: object) -> Accepts:
    accepts = getattr(infer, "accepts", None)
    if accepts in _KINDS:
        return cast(Accepts, accepts)
    if accepts is not None:
        raise ModelUnfit(
            f"{model.implementation}: Infer.accepts is {accepts!r}; "
            f"expected one of {', '.join(_KINDS)}"
        )
    kinds = {media_type.partition("/")[0] for media_type in model.media_types}
    if len(kinds) == 1 and (kind := kinds.pop()) in ("image", "audio", "text"):
        return cast(Accepts, kind)
    if model.media_types == ("application/json",):
        return "json"
    if set(model.media_types) <= {"application/json", "application/x-npy"}:
        return "tensor"
    raise ModelUnfit(
        f"{model.implementation}: Infer has no attribute accepts; set it to one of "
        f"{', '.join(_KINDS)}"
    )


def required_sample_rate(model: ModelEntry, infer: Any) -> int | None:
    """Return the sample rate that the class requires; None if it accepts every rate."""
    rate = getattr(infer, "sample_rate", None)
    if rate is not None and not (isinstance(rate, int) and rate in RATES):
        raise ModelUnfit(
            f"{model.implementation}: sample_rate is {rate!r}; expected a whole number from "
            f"{RATES[0]} to {RATES[-1]}"
        )
    return rate


def check_declared_results(model: ModelEntry, infer: Any) -> None:
    """Compare the named results of the entry with those that the class declares."""
    try:
        found = returned_results(infer)
    except ModelUnfit:
        if model.results:
            raise
        # A model without named results needs no type hint.
        return
    declared = {} if found is None else read_results_class(found)
    if not declared:
        return
    optional = {name: each.optional for name, each in declared.items()}
    if optional != {name: each.optional for name, each in model.results.items()}:
        raise _mismatch(model, "results", f"describe what {model.implementation} returns")
    for name, each in declared.items():
        media_type = model.results[name].media_type
        if not each.allows(media_type):
            is_any = each.media_types == ("*/*",)
            expected = f"any type except {media.JSON}" if is_any else " or ".join(each.media_types)
            raise ModelUnfit(
                f"{model.name}.results.{name}.media_type: the model does not return {media_type}; "
                f"expected {expected}"
            )
