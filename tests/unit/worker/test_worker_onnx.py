"""Test the model `worker.models.onnx` with small ONNX graphs that the tests create."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.catalogue import Catalogue, ModelEntry
from tests.unit.worker.managed_models import no_account
from worker.errors import InferenceFailed, InvalidInput, ModelUnfit, WeightsDamaged, WeightsUnfit
from worker.inference.loaded_model import LoadedModel
from worker.models import Weights
from worker.objects.azure import AzureBlobReader
from worker.weights.onnx_file import check_single_file
from worker.weights.store import WeightsStore

onnx = pytest.importorskip("onnx", reason="needs the packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the packages onnx and onnxruntime")

NOOP = Catalogue.load()["noop"]
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
TENSORS = ("application/x-npy", "application/json")


def save_graph(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, Any] | None = None,
) -> Path:
    """Write a graph to `path`. `inputs` and `outputs` have element types and shapes by name."""
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [onnx.helper.make_tensor_value_info(name, *each) for name, each in outputs.items()],
        [onnx.numpy_helper.from_array(each, name) for name, each in (constants or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def save_sum(path: Path, batch: object = "N", kind: int = FLOAT) -> Path:
    """Write a graph whose output `sum` is the sum of its inputs `left` and `right`."""
    node, values = onnx.helper.make_node("Add", ["left", "right"], ["sum"]), (kind, [batch, 2])
    return save_graph(path, [node], {"left": values, "right": values}, {"sum": values})


def save_colours(path: Path, side: object = 4, *, is_channels_first: bool = True) -> Path:
    """Write a graph that classifies pictures: a score is the mean of one channel."""
    shape: list[Any] = ["N", 3, side, side] if is_channels_first else ["N", side, side, 3]
    axes = [2, 3] if is_channels_first else [1, 2]
    node = onnx.helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=axes, keepdims=0)
    return save_graph(path, [node], {"pixels": (FLOAT, shape)}, {"scores": (FLOAT, ["N", 3])})


def load(path: Path, *media_types: str, **entry: Any) -> LoadedModel:
    model: ModelEntry = replace(
        NOOP,
        implementation="worker.models.onnx",
        media_types=media_types or TENSORS,
        weights="file:a.onnx",
        **entry,
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoadedModel.load(model, 1, Weights(path, sha256))


def answer(loaded: LoadedModel, *items: Any) -> list[Any]:
    outputs = loaded.call_model([loaded.preprocess(item) for item in items])
    return [loaded.encode_output(output).first.value for output in outputs]  # type: ignore[union-attr]  # JSON


def picture(red: int, green: int, blue: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, (red, green, blue))


@pytest.mark.parametrize("batch", ["N", 1])
def test_one_array_for_each_input_is_accepted(tmp_path: Path, batch: object) -> None:
    loaded = load(save_sum(tmp_path / "a.onnx", batch))
    assert loaded.accepts == "tensor"
    items = [{"left": [1, 2], "right": np.array([[number, 0]])} for number in range(3)]
    assert answer(loaded, *items) == [{"sum": [1 + number, 2]} for number in range(3)]


def test_items_of_different_shapes_get_their_results(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)
    inputs, outputs = {"x": (FLOAT, ["N", "length"])}, {"total": (FLOAT, ["N"])}
    path = save_graph(tmp_path / "a.onnx", [node], inputs, outputs, {"axes": np.array([1])})
    loaded = load(path)
    assert loaded.sample() is None
    found = answer(loaded, [1, 2], [1], [3, 4], np.ones(5))
    assert [each["total"] for each in found] == [3, 1, 7, 5]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"left": [1, 2]}, "expected one array for each of the inputs left, right"),
        ([1, 2], "expected one array for each of the inputs left, right"),
        (
            {"left": [1, 2], "right": [1, 2, 3]},
            "right: expected an array with the shape 2, found an array with the shape 3",
        ),
        (
            {"left": [[1, 2], [3, 4]], "right": [1, 2]},
            "left: expected an array with the shape 2, found an array with the shape 2 by 2",
        ),
        (
            {"left": 1, "right": [1, 2]},
            "left: expected an array with the shape 2, found one number",
        ),
        *[
            (
                {"left": left, "right": [1, 2]},
                "left: expected an array of numbers with rows of equal length",
            )
            for left in ([1, "2"], [[1], 2])
        ],
        *[
            ({"left": left, "right": [1, 2]}, "left: expected numbers that fit into the type int64")
            for left in ([1.5, 2], [1e300, 2])
        ],
    ],
)
def test_input_that_does_not_match_the_graph_is_refused(
    tmp_path: Path, item: object, said: str
) -> None:
    loaded = load(save_sum(tmp_path / "a.onnx", kind=INT64))
    with pytest.raises(InvalidInput) as raised:
        loaded.preprocess(item)
    assert str(raised.value) == said


@pytest.mark.parametrize("is_channels_first", [True, False])
def test_classifier_returns_labels_and_scores(tmp_path: Path, *, is_channels_first: bool) -> None:
    path = save_colours(tmp_path / "a.onnx", is_channels_first=is_channels_first)
    loaded = load(path, "image/png", options={"labels": "red, green, blue"})
    assert loaded.accepts == "image"
    red, blue = answer(loaded, picture(255, 51, 0), picture(0, 0, 255))
    assert [each["label"] for each in red["labels"]] == ["red", "green", "blue"]
    assert (blue["labels"][0]["label"], blue["labels"][0]["index"]) == ("blue", 2)
    # A sum of scores other than 1 is no distribution: e / (e + e^0.2 + 1).
    assert red["labels"][0]["score"] == pytest.approx(0.550478, abs=1e-3)
    assert blue["labels"][0]["score"] == 1.0


def test_pictures_are_normalized_and_cropped(tmp_path: Path) -> None:
    path = save_colours(tmp_path / "a.onnx")
    options = {"mean": "0.5,0.5,0", "std": "0.5", "crop": 0.5}
    framed = picture(255, 0, 255, (80, 80))
    framed.paste((0, 255, 255), (10, 10, 70, 70))
    [found] = answer(load(path, "image/png", options=options), framed)
    assert found["scores"] == pytest.approx([-1, 1, 2], abs=1e-5)


def test_labels_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    path = save_colours(tmp_path / "a.onnx")
    loaded = load(path, "image/png", options={"labels": "file:names.txt"})
    assert answer(loaded, picture(255, 0, 0))[0]["labels"][0]["label"] == "red"
    with pytest.raises(ModelUnfit, match=r"options\.labels: absent\.txt cannot be read"):
        load(path, "image/png", options={"labels": "file:absent.txt"})
    loaded = load(path, "image/png", options={"labels": "red"})
    with pytest.raises(InferenceFailed, match="returned 3 scores for 1 labels"):
        answer(loaded, picture(255, 0, 0))


def test_memory_of_graph_and_batches_is_measured(tmp_path: Path) -> None:
    # Each item needs 8 MB for `wide`, although its input and its output are small.
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "table"], ["wide"]),
        onnx.helper.make_node("Relu", ["wide"], ["positive"]),
        onnx.helper.make_node("ReduceMean", ["positive"], ["mean"], axes=[1], keepdims=0),
    ]
    table = np.ones((4, 2_000_000), np.float32)
    inputs, outputs = {"x": (FLOAT, ["N", 4])}, {"mean": (FLOAT, ["N"])}
    path = save_graph(tmp_path / "a.onnx", nodes, inputs, outputs, {"table": table})
    loaded = load(path)
    assert 32e6 < loaded.memory_bytes(0) < 250e6
    sample = loaded.sample()
    assert loaded.cost(sample) == 4
    assert answer(loaded, *[[1, 1, 1, 1]] * 4) == [{"mean": 4}] * 4
    assert 16e6 < loaded.memory_bytes(16) - loaded.memory_bytes(0) < 100e6


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (onnx.TensorProto.STRING, ["N", 1], "has the type tensor(string); expected one of"),
        (FLOAT, [], "expected the batch as the first dimension, with a dynamic size or the size 1"),
        (FLOAT, [3, 2], "expected the batch as the first dimension"),
    ],
)
def test_inputs_that_cannot_be_batched_are_unfit(
    tmp_path: Path, kind: int, shape: list[Any], said: str
) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    path = save_graph(tmp_path / "a.onnx", [node], {"x": (kind, shape)}, {"y": (kind, shape)})
    with pytest.raises(ModelUnfit) as raised:
        load(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x09" * 50])
def test_file_without_a_graph_is_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(WeightsDamaged, match="the ONNX file cannot be read: "):
        load(path)


def test_unknown_operator_is_refused(tmp_path: Path) -> None:
    path = save_sum(tmp_path / "a.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].domain = "example.own"
    model.opset_import.append(onnx.helper.make_opsetid("example.own", 1))
    onnx.save(model, str(path))
    with pytest.raises(WeightsDamaged, match=r"example\.own"):
        load(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": "0.5,0.5"}, "options.mean: expected one number, or 3"),
        ({"std": "a"}, "options.std"),
        ({"depth": 3}, "options.depth: the constructor of worker.models.onnx has no such argument"),
    ],
)
def test_invalid_option_is_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelUnfit) as raised:
        load(save_colours(tmp_path / "a.onnx"), "image/png", options=options)
    assert said in str(raised.value)


def test_picture_is_refused_if_the_graph_takes_none(tmp_path: Path) -> None:
    loaded = load(save_sum(tmp_path / "a.onnx"), "image/png")
    with pytest.raises(InvalidInput, match="takes no pictures;"):
        loaded.preprocess(picture(0, 0, 0))


def test_weights_in_a_second_file_are_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = {"w": np.ones(1000, np.float32)}
    nodes = [onnx.helper.make_node("Add", ["x", "w"], ["location"])]
    shapes = {"x": (FLOAT, ["N", 1000])}, {"location": (FLOAT, ["N", 1000])}
    path = save_graph(tmp_path / "net.onnx", nodes, *shapes, constants)
    check_single_file(path)
    load(path)
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    with pytest.raises(WeightsUnfit, match="in a second file"):
        load(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsUnfit, match=r"onnx\.save"):
        WeightsStore(tmp_path / "cache", AzureBlobReader(no_account)).compute_digest(
            "file:net.onnx"
        )


def test_file_without_a_graph_passes_the_external_check(tmp_path: Path) -> None:
    for data in (b"", b"\x3a", b"\x3a\xff\xff\xff\xff\xff", b"\x0f", b"PK\3\4" * 99):
        (tmp_path / "a.onnx").write_bytes(data)
        check_single_file(tmp_path / "a.onnx")
