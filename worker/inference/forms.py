"""The two forms of a model's class as one: built as its entry says, and called alike."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast, get_args

from contract.catalogue import Model
from contract.messages import Json
from worker.errors import InferenceFailed, ModelUnfit
from worker.models import (
    Accepts,
    Context,
    Infer,
    LongInfer,
    LongShortInfer,
    Postprocesses,
    ShortInfer,
    Weights,
)

_KINDS: Final[tuple[Accepts, ...]] = get_args(Accepts)
_DECODED: Final = {
    "image": ("image/jpeg", "image/png", "image/webp"),
    "audio": ("audio/wav", "audio/x-wav", "audio/vnd.wave"),
}
# What a class may limit: an entry that asks for more is refused.
_LIMITS: Final = ("max_batch_size", "max_wait_ms")


Parameters = Mapping[str, Json]
"""What a caller asked for beside the input."""


class Form(Protocol):
    """A model as the runner calls it."""

    def preprocess(self, item: Any, parameters: Parameters) -> Any:
        """One input and what its caller asked for, on any thread."""
        ...

    def bare(self, item: Any) -> Any:
        """What the model's own hooks are asked about, of what `preprocess` gave."""
        ...

    def run(self, batch: list[Any], contexts: Sequence[Context]) -> Sequence[Any]:
        """One batch, in the device thread."""
        ...

    def postprocess(self, output: Any) -> Any:
        """One output of the batch, on any thread."""
        ...


class Full:
    """A class with `preprocess`: it runs batches."""

    def __init__(self, infer: Infer | LongInfer, *, takes_contexts: bool) -> None:
        self._infer = infer
        self._takes_contexts = takes_contexts
        self._takes_parameters = _takes_parameters(infer.preprocess)
        has_last_step = hasattr(infer, "postprocess")
        self.postprocess: Callable[[Any], Any] = (
            cast(Postprocesses, infer).postprocess if has_last_step else _as_it_is
        )

    def preprocess(self, item: Any, parameters: Parameters) -> Any:
        """See Form."""
        first = cast(Callable[..., Any], self._infer.preprocess)
        return first(item, parameters=parameters) if self._takes_parameters else first(item)

    def bare(self, item: Any) -> Any:
        """See Form."""
        return item

    def run(self, batch: list[Any], contexts: Sequence[Context]) -> Sequence[Any]:
        """See Form."""
        if self._takes_contexts:
            return cast(LongInfer, self._infer)(batch, list(contexts))
        return cast(Infer, self._infer)(batch)


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item that waits for the device with its caller's parameters."""

    item: Any
    parameters: Parameters


class Short:
    """A class without: it runs items one after the other."""

    def __init__(self, infer: ShortInfer | LongShortInfer, *, takes_contexts: bool) -> None:
        self._call = cast(Callable[..., Any], infer)
        self._takes_contexts = takes_contexts
        self._takes_parameters = _takes_parameters(infer)
        self.postprocess = _as_it_is

    def preprocess(self, item: Any, parameters: Parameters) -> Any:
        """See Form."""
        return _Asked(item, parameters) if self._takes_parameters else item

    def bare(self, item: Any) -> Any:
        """See Form."""
        return item.item if isinstance(item, _Asked) else item

    def run(self, batch: list[Any], contexts: Sequence[Context]) -> Sequence[Any]:
        """See Form."""
        if self._takes_contexts:
            each = zip(batch, contexts, strict=True)
            return [self._run(item, context) for item, context in each]
        return [self._run(item) for item in batch]

    def _run(self, item: Any, *context: Context) -> Any:
        if not self._takes_parameters:
            return self._call(item, *context)
        parameters = item.parameters if isinstance(item, _Asked) else {}
        return self._call(self.bare(item), *context, parameters=parameters)


def construct(model: Model, make: Callable[..., Any], weights: Weights | None) -> Any:
    """Make the model's `Infer` with what its entry gives; ModelUnfit, or what its code raises."""
    return make(**_arguments(model, make, weights))


def shaped(model: Model, infer: Any) -> Form:
    """The form that an `Infer` has; ModelUnfit where it has none, or is not made for its entry."""
    if not callable(infer):
        raise ModelUnfit(f"{model.implementation}: Infer has no __call__")
    for name in _LIMITS:
        limit, asked = getattr(infer, name, None), getattr(model, name)
        if limit is not None and asked > limit:
            raise ModelUnfit(f"{model.name}.{name}: is {asked}, the model is made for {limit}")
    for name in ("preprocess", "postprocess"):
        if not callable(getattr(infer, name, _as_it_is)):
            raise ModelUnfit(f"{model.implementation}: Infer.{name} is no method")
    is_full = hasattr(infer, "preprocess")
    if hasattr(infer, "postprocess") and not is_full:
        raise ModelUnfit(f"{model.implementation}: Infer has postprocess but no preprocess")
    return (Full if is_full else Short)(infer, takes_contexts=model.reports_progress)


def _arguments(
    model: Model, make: Callable[..., Any], weights: Weights | None
) -> dict[str, object]:
    """What the constructor is given: the weights and the entry's options, each by its name."""
    given: dict[str, object] = dict(model.options)
    if weights is not None:
        given["weights"] = weights
    parameters = inspect.signature(make).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for name in given:
        if name not in parameters and not takes_any:
            what = name if name == "weights" else f"options.{name}"
            raise ModelUnfit(f"{model.name}.{what}: {model.implementation} takes no such argument")
    for name, each in parameters.items():
        is_variable = each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        if each.default is each.empty and not is_variable and name not in given:
            what = name if name == "weights" else f"options.{name}"
            raise ModelUnfit(f"{model.name}.{what}: is missing, {model.implementation} needs it")
    return given


def accepted(model: Model, infer: object) -> Accepts:
    """What the class says that it takes, or else what the entry's media types leave.

    ModelUnfit also where the entry lets in pictures or sound that are not decoded here.
    """
    kind = _kind(model, infer)
    if decoded := _DECODED.get(kind):
        for media_type in model.media_types:
            if media_type.startswith(f"{kind}/") and media_type not in decoded:
                raise ModelUnfit(
                    f"{model.name}.media_types: {media_type} cannot be decoded here; "
                    f"there are {', '.join(decoded)}"
                )
    return kind


def _kind(model: Model, infer: object) -> Accepts:
    said = getattr(infer, "accepts", None)
    if said in _KINDS:
        return cast(Accepts, said)
    if said is not None:
        raise ModelUnfit(f"{model.implementation}: accepts is {said!r}, not {', '.join(_KINDS)}")
    kinds = {media_type.partition("/")[0] for media_type in model.media_types}
    if len(kinds) == 1 and (kind := kinds.pop()) in ("image", "audio", "text"):
        return cast(Accepts, kind)
    if model.media_types == ("application/json",):
        return "json"
    raise ModelUnfit(f"{model.implementation}: Infer must say what it accepts")


def checked(outputs: Sequence[Any], count: int) -> Sequence[Any]:
    """The same, if there is one for each item."""
    if not hasattr(outputs, "__len__") or len(outputs) != count:
        found = len(outputs) if hasattr(outputs, "__len__") else "no"
        raise InferenceFailed(f"the model gave {found} results for {count} inputs")
    return outputs


def _takes_parameters(call: Callable[..., Any]) -> bool:
    try:
        return "parameters" in inspect.signature(call).parameters
    except ValueError:
        # Some builtins have no signature.
        return False


def _as_it_is(value: Any) -> Any:
    return value
