"""Test loaded item models and batch models: their arguments, inputs and results."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, InlineJson
from contract.parameters import read_schemas
from tests.unit.worker.pictures import white_png
from worker.errors import EngineFailed, InferenceFailed, InvalidInput, LoadInterrupted, ModelUnfit
from worker.inference.declarations import read_arguments
from worker.inference.loaded_model import LoadedModel, NullContext, encode_results, serialize_result
from worker.inference.loading import LoadProgress
from worker.inference.model_checks import make_instance
from worker.models import Accepts, Context, Loading, Range, Weights

NOOP = Catalogue.load()["noop"]
PICTURES = replace(NOOP, name="pictures", media_types=("image/png",), max_pixels=100)
TEXTS = replace(NOOP, name="texts", media_types=("text/plain",))
PNG = white_png(4, 2)
WEIGHTS = Weights(Path("weights.pth"))


def answer(loaded: LoadedModel, data: bytes, media_type: str) -> InlineJson | InlineBytes:
    (output,) = loaded.call_model([loaded.prepare(data, media_type)])
    return loaded.encode_output(output).first


def test_item_model_returns_one_result_for_each_item() -> None:
    class Infer:
        def __call__(self, image: Image.Image) -> dict[str, object]:
            return {"size": list(image.size)}

    loaded = LoadedModel(PICTURES, Infer())
    assert loaded.accepts == "image"
    assert answer(loaded, PNG, "image/png") == InlineJson({"size": [4, 2]})
    items = [loaded.prepare(PNG, "image/png")] * 3
    assert len(loaded.call_model(items)) == 3


def test_postprocess_converts_each_output() -> None:
    class Infer(Batched):
        def postprocess(self, output: str) -> dict[str, int]:
            return {"length": len(output)}

    assert answer(LoadedModel(TEXTS, Infer()), b"abc", "text/plain") == InlineJson({"length": 3})


class Told(NullContext):
    """The context of a model call. It appends each reported progress fraction to `seen`."""

    def __init__(self) -> None:
        self.seen: list[float | None] = []

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        self.seen.append(fraction)


class Batched:
    """A batch model that returns what `preprocess` returns."""

    accepts: ClassVar[Accepts] = "text"

    def preprocess(self, item: str) -> object:
        return item

    def __call__(self, batch: list[Any]) -> list[Any]:
        return batch


def test_both_kinds_report_progress() -> None:
    class Short:
        def __call__(self, text: str, context: Context) -> str:
            context.progress(0.5)
            return text

    class Full(Batched):
        def __call__(self, batch: list[str], contexts: list[Context]) -> list[str]:  # type: ignore[override]
            for context in contexts:
                context.progress(0.5)
            return batch

    long = replace(TEXTS, reports_progress=True)
    for infer in (Short(), Full()):
        contexts = [Told(), Told()]
        assert list(LoadedModel(long, infer).call_model(["a", "b"], contexts)) == ["a", "b"]
        assert [context.seen for context in contexts] == [[0.5], [0.5]]


def test_both_kinds_accept_parameters() -> None:
    class Short:
        accepts: ClassVar[Accepts] = "text"

        def __call__(self, text: str, parameters: Mapping[str, Any]) -> str:
            return text * int(parameters.get("times", 1))

        def cost(self, item: str) -> float:
            return len(item)

    class Full(Batched):
        def preprocess(self, item: str, *, parameters: Mapping[str, Any]) -> str:  # type: ignore[override]
            return item * int(parameters.get("times", 1))

    for infer in (Short(), Full()):
        loaded = LoadedModel(TEXTS, infer)
        plain = loaded.prepare(b"ab", "text/plain")
        asked = loaded.prepare(b"ab", "text/plain", {"times": 3})
        assert list(loaded.call_model([plain, asked])) == ["ab", "ababab"]
    short = LoadedModel(TEXTS, Short())
    assert short.cost(short.prepare(b"abc", "text/plain", {"times": 3})) == 3
    # A sample is an item without parameters.
    assert list(short.call_model(["x"])) == ["x"]


class Typed:
    """An item model whose keyword-only arguments have all supported type hints."""

    def __call__(
        self,
        text: str,
        *,
        top: Annotated[int, Range(1, 10), "How many."] = 3,
        score: Annotated[float | None, Range(maximum=1)] = None,
        mode: Literal["a", "b"] = "a",
        names: list[str] = ["x"],  # noqa: B006  the model does not change it
        flag: bool = False,
    ) -> object:
        return [text, top, score, mode, names, flag]


TYPED_SCHEMAS: dict[str, dict[str, Any]] = {
    "top": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "description": "How many.",
        "default": 3,
    },
    "score": {"type": "number", "maximum": 1},
    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
    "names": {"type": "array", "items": {"type": "string"}, "default": ["x"]},
    "flag": {"type": "boolean", "default": False},
}


def test_keyword_only_arguments_declare_parameters() -> None:
    assert read_arguments(Typed()) == read_arguments(Typed.__call__) == TYPED_SCHEMAS
    read_schemas("typed.parameters", TYPED_SCHEMAS)


def test_parameters_are_converted_to_the_hinted_types() -> None:
    class Full(Batched):
        def preprocess(self, item: str, *, top: int = 1, score: float = 0.5) -> object:
            return [item, top, score]

    loaded = LoadedModel(replace(TEXTS, parameters=TYPED_SCHEMAS), Typed())
    given = {"top": 2.0, "score": 1, "names": ["y"]}
    items = [loaded.prepare(b"t", "text/plain", each) for each in ({}, given)]
    plain, asked = loaded.call_model([*items])
    assert plain == ["t", 3, None, "a", ["x"], False]
    assert asked == ["t", 2, 1.0, "a", ["y"], False]
    assert [type(each) for each in asked[1:3]] == [int, float]
    # A sample is an item without parameters.
    assert loaded.call_model(["s"]) == [["s", 3, None, "a", ["x"], False]]
    schemas = read_arguments(Full.preprocess)
    batched = LoadedModel(replace(TEXTS, parameters=schemas), Full())
    assert batched.prepare(b"t", "text/plain", {"score": 1}) == ["t", 1, 1.0]


def test_parameters_against_their_schemas_are_refused() -> None:
    loaded = LoadedModel(replace(TEXTS, parameters=TYPED_SCHEMAS), Typed())
    for given in ({"top": 11}, {"others": 1}):
        with pytest.raises(InvalidInput, match="parameters/"):
            loaded.prepare(b"t", "text/plain", given)


def test_missing_required_parameter_is_refused() -> None:
    class Item:
        def __call__(self, text: str, *, top: int) -> str:
            return text[:top]

    class Full(Batched):
        def preprocess(self, item: str, *, top: int) -> str:  # type: ignore[override]
            return item[:top]

    model = replace(TEXTS, parameters={"top": {"type": "integer"}})
    for infer in (Item(), Full()):
        loaded = LoadedModel(model, infer)
        item = loaded.prepare(b"text", "text/plain", {"top": 2})
        assert list(loaded.call_model([item])) == ["te"]
        with pytest.raises(InvalidInput, match="parameters/top: the parameter is missing"):
            loaded.prepare(b"text", "text/plain")


def test_parameters_that_differ_from_the_entry_are_unfit() -> None:
    different: list[dict[str, dict[str, Any]]] = [{}, {**TYPED_SCHEMAS, "top": {"type": "integer"}}]
    for schemas in different:
        with pytest.raises(
            ModelUnfit, match=r"texts.parameters: the key does not match .* models describe texts"
        ):
            LoadedModel(replace(TEXTS, parameters=schemas), Typed())


def test_parameter_without_a_supported_hint_is_unfit() -> None:
    class Untyped:
        def __call__(self, text: str, *, top=3) -> str:  # type: ignore[no-untyped-def]
            return text

    class Nested:
        def __call__(self, text: str, *, top: dict[str, int] | None = None) -> str:
            return text

    for infer in (Untyped(), Nested()):
        with pytest.raises(ModelUnfit, match="the argument top has no type hint, or a type"):
            LoadedModel(TEXTS, infer)


def test_item_model_gets_parameters_and_context() -> None:
    class Infer:
        def __call__(self, text: str, context: Context, parameters: Mapping[str, Any]) -> Any:
            context.progress(parameters["at"])
            return text

    loaded, told = LoadedModel(replace(TEXTS, reports_progress=True), Infer()), Told()
    item = loaded.prepare(b"a", "text/plain", {"at": 0.25})
    assert list(loaded.call_model([item], [told])) == ["a"]
    assert told.seen == [0.25]


@pytest.mark.parametrize(
    ("accepts", "data", "media_type", "seen"),
    [
        ("bytes", b"\xff", "application/octet-stream", b"\xff"),
        ("text", "ä".encode(), "text/plain; charset=utf-8", "ä"),
        ("json", b'{"a": [1]}', "application/json", {"a": [1]}),
    ],
)
def test_accepts_determines_the_type_of_inputs(
    accepts: Accepts, data: bytes, media_type: str, seen: object
) -> None:
    infer = type("Infer", (), {"accepts": accepts, "__call__": lambda self, item: item})
    assert LoadedModel(NOOP, infer()).prepare(data, media_type) == seen


@pytest.mark.parametrize(
    ("media_types", "accepts"),
    [
        (("image/png", "image/jpeg"), "image"),
        (("audio/wav", "audio/x-wav"), "audio"),
        (("text/plain",), "text"),
        (("application/json",), "json"),
    ],
)
def test_media_types_determine_the_input_without_accepts(
    media_types: tuple[str, ...], accepts: str
) -> None:
    assert LoadedModel(replace(NOOP, media_types=media_types), bytes).accepts == accepts


class Wants:
    """A model that stores the arguments of its constructor in `given`."""

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, weights: Weights, architecture: str, threshold: float = 0.5) -> None:
        self.given = (weights, architecture, threshold)

    def __call__(self, item: bytes) -> object:
        return None


LOADING = LoadProgress("noop")


def test_constructor_gets_weights_and_options_by_name() -> None:
    model = replace(NOOP, options={"architecture": "resnet50"})
    assert make_instance(model, Wants, WEIGHTS, LOADING).given == (WEIGHTS, "resnet50", 0.5)
    anything = make_instance(model, lambda **given: given, WEIGHTS, LOADING)
    assert anything == {"architecture": "resnet50", "weights": WEIGHTS}


@pytest.mark.parametrize(
    ("make", "options", "weights", "said"),
    [
        (Wants, {}, WEIGHTS, r"noop.options.architecture: the catalogue entry does not"),
        (Wants, {"architecture": "a"}, None, r"noop.weights: the catalogue entry does not"),
        (Wants, {"architecture": "a", "depth": 3}, WEIGHTS, r"options.depth: .* has no such"),
        (object, {}, WEIGHTS, r"noop.weights: the constructor of worker.models.noop has no such"),
    ],
)
def test_missing_or_unknown_option_is_named(
    make: type, options: dict[str, Any], weights: Weights | None, said: str
) -> None:
    with pytest.raises(ModelUnfit, match=said):
        make_instance(replace(NOOP, options=options), make, weights, LOADING)


def test_constructor_gets_the_progress_of_its_load() -> None:
    class Slow:
        def __init__(self, loading: Loading) -> None:
            loading.progress("downloading")
            loading.wait(60)

    is_stopping = iter([False, False, True])
    loading = LoadProgress("noop", lambda: next(is_stopping))
    with pytest.raises(LoadInterrupted):
        make_instance(NOOP, Slow, None, loading)
    assert loading.message == "downloading"


def test_crashes_in_a_short_time_break_a_model() -> None:
    now = 0.0
    loading = LoadProgress("chat", clock=lambda: now)
    for _ in range(10):
        loading.reload()
        loading.begin()
        loading.reload("it printed: no memory")
    with pytest.raises(EngineFailed, match="10 crashes in 600 s; the last: it printed: no memory"):
        loading.begin()
    now = 601.0
    loading.begin()


class Talks:
    accepts: ClassVar[Accepts] = "text"

    async def __call__(self, item: str, context: Context) -> str:
        return item


def test_concurrent_model_needs_its_context() -> None:
    with pytest.raises(ModelUnfit, match=r"noop.reports_progress: .* reports_progress = true"):
        LoadedModel(NOOP, Talks())


@pytest.mark.parametrize("name", ["preprocess", "postprocess"])
def test_concurrent_model_has_no_other_step(name: str) -> None:
    infer = type("Infer", (Talks,), {name: lambda self, item: item})()
    with pytest.raises(ModelUnfit, match=f"Infer has {name}, but an `async def __call__`"):
        LoadedModel(replace(NOOP, reports_progress=True), infer)


@pytest.mark.parametrize("foreign", ["image/gif", "image/jpg", "audio/mpeg"])
def test_media_type_that_cannot_be_decoded_is_unfit(foreign: str) -> None:
    model = replace(NOOP, media_types=("image/png", foreign))
    infer = type("Infer", (Wants,), {"accepts": foreign.partition("/")[0]})
    with pytest.raises(ModelUnfit, match=f"noop.media_types: {foreign} cannot be decoded"):
        LoadedModel(model, infer(WEIGHTS, ""))
    LoadedModel(model, type("Infer", (Wants,), {"accepts": "bytes"})(WEIGHTS, ""))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"accepts": "pictures"}, "accepts is 'pictures'; expected one of audio, bytes, file"),
        ({"postprocess": print}, "postprocess but no preprocess"),
        ({"preprocess": None}, "Infer.preprocess is not a method"),
        (
            {"max_batch_size": 4},
            "noop.max_batch_size: the value is 16, but the model allows at most 4",
        ),
        ({"accepts": None}, "has no attribute accepts"),
    ],
)
def test_class_that_contradicts_the_entry_is_unfit(members: dict[str, object], said: str) -> None:
    infer = type("Infer", (Wants,), members)
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(NOOP, infer(WEIGHTS, ""))


def test_missing_call_or_class_is_unfit() -> None:
    with pytest.raises(ModelUnfit, match="has no method __call__"):
        LoadedModel(NOOP, SimpleNamespace(accepts="bytes"))
    with pytest.raises(ModelUnfit, match="no class Infer"):
        LoadedModel.load(replace(NOOP, implementation="json"), torch_thread_count=1)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        *[(each, "results for 1 inputs") for each in ([], [1, 2], iter([1]), None)],
        *[(each, "for a batch; expected a list") for each in ({"label": "cat"}, "c", b"c")],
    ],
)
def test_wrong_number_of_results_fails_the_batch(outputs: object, said: str) -> None:
    members = {"accepts": "bytes", "preprocess": bytes, "__call__": lambda self, batch: outputs}
    infer = type("Infer", (), members)
    with pytest.raises(InferenceFailed, match=said):
        LoadedModel(NOOP, infer()).call_model([b""])


@pytest.mark.parametrize(
    "call", [lambda self, item: item, lambda self, item, *, parameters: item, lambda self: 1]
)
def test_missing_context_is_unfit_with_reports_progress(call: object) -> None:
    model = replace(NOOP, reports_progress=True)
    item_model = type("Infer", (), {"accepts": "bytes", "__call__": call})
    with pytest.raises(
        ModelUnfit, match=r"noop.reports_progress: the key is true, .* argument context "
    ):
        LoadedModel(model, item_model())
    batch_model = type("Infer", (item_model,), {"preprocess": bytes})
    with pytest.raises(ModelUnfit, match="add the argument contexts"):
        LoadedModel(model, batch_model())


def test_required_context_needs_reports_progress() -> None:
    infer = type("Infer", (), {"accepts": "bytes", "__call__": lambda self, item, context: item})
    with pytest.raises(ModelUnfit, match=r"requires the argument context .* add reports_progress"):
        LoadedModel(NOOP, infer())
    LoadedModel(replace(NOOP, reports_progress=True), infer())


def test_image_of_any_size_is_accepted_without_max_pixels() -> None:
    infer = type("Infer", (), {"__call__": lambda self, item: item})
    loaded = LoadedModel(replace(PICTURES, max_pixels=0), infer())
    assert loaded.prepare(PNG, "image/png").size == (4, 2)


LOOP: list[object] = [1]
LOOP.append({"a": LOOP})


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"scores": [0.5, float("nan")]}, r"\['scores'\]\[1\] is nan; return a finite number or"),
        ({"a": float("-inf")}, r"result\['a'\] is -inf"),
        ([np.float32(1)], r"result\[0\] is of type float32; call .tolist\(\)"),
        ({"a": {1, 2}}, r"result\['a'\] is of type set; return a number, text, list or dict"),
        ({(1, 2): 1}, "result has a key of type tuple; use texts as keys"),
        (LOOP, r"result\[1\]\['a'\] contains itself"),
    ],
)
def test_result_that_is_not_json_is_named_with_a_remedy(result: object, said: str) -> None:
    with pytest.raises(InferenceFailed, match=said):
        serialize_result(InlineJson(result))


def encoded(result: object, media_type: str) -> InlineJson | InlineBytes:
    return encode_results(result, replace(NOOP, result_media_type=media_type)).first


@pytest.mark.parametrize(
    ("media_type", "mode"), [("image/png", "P"), ("image/jpeg", "RGBA"), ("image/webp", "L")]
)
def test_image_is_encoded_as_the_type_of_the_entry(media_type: str, mode: str) -> None:
    payload = encoded(Image.new(mode, (5, 3)), media_type)
    assert isinstance(payload, InlineBytes)
    assert payload.media_type == media_type
    with Image.open(io.BytesIO(payload.data)) as picture:
        assert (picture.get_format_mimetype(), picture.size) == (media_type, (5, 3))


def test_bytes_and_text_get_the_type_of_the_entry() -> None:
    assert encoded(bytearray(b"ab"), "audio/wav") == InlineBytes("audio/wav", b"ab")
    assert encoded("ä\ud800", "text/plain") == InlineBytes("text/plain", "ä?".encode())


@pytest.mark.parametrize(
    ("result", "media_type"),
    [({"a": 1}, "image/png"), (Image.new("L", (1, 1)), "audio/wav"), ("text", "image/png")],
)
def test_result_against_the_type_of_the_entry_fails(result: object, media_type: str) -> None:
    with pytest.raises(InferenceFailed, match=f"cannot be encoded as {media_type}"):
        encoded(result, media_type)
