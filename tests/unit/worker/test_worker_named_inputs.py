"""Test models with named inputs: arguments, memory, and the commands `describe` and `check`."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contract.catalogue import Catalogue
from contract.messages import InlineJson
from contract.named_tables import NamedInput
from worker.errors import InvalidInput, ModelUnfit, UnsupportedMediaType
from worker.inference.context import NullContext
from worker.inference.declarations import InputArgument, read_arguments, read_input_arguments
from worker.inference.loaded_model import LoadedModel
from worker.inputs.audio import Audio
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.opened import DecodedInputs, InputKind, keep_waiting, open_input, open_together
from worker.models import Accepts, Context, Input
from worker.settings import MemorySettings
from worker.tools import check, describe
from worker.tools.check_load import LoadMeasurement

MIB = 1024 * 1024
PICTURES = ("image/png", "image/jpeg", "image/webp")
COMPARED = replace(
    Catalogue.load()["noop"],
    name="compared",
    implementation="tests.unit.worker.test_worker_named_inputs",
    media_types=PICTURES,
    max_pixels=10_000,
    inputs={"other": NamedInput(PICTURES, max_pixels=100)},
)


def png(width: int, height: int = 2) -> bytes:
    data = io.BytesIO()
    Image.new("L", (width, height), 255).save(data, "PNG")
    return data.getvalue()


class Infer:
    """A model that returns the widths of two pictures."""

    def __call__(
        self, image: Image.Image, *, other: Annotated[Image.Image, "Second."], scale: int = 1
    ) -> dict[str, int]:
        return {"first": image.width * scale, "other": other.width * scale}


MODEL = replace(COMPARED, parameters={"scale": {"type": "integer", "default": 1}})
OTHER = {"other": (png(5), "image/png")}


def run(
    loaded: LoadedModel, inputs: Mapping[str, tuple[bytes, str]], **parameters: Any
) -> InlineJson:
    (output,) = loaded.call_model([loaded.prepare(png(4), "image/png", parameters, inputs)])
    result = loaded.encode_output(output).first
    assert isinstance(result, InlineJson)
    return result


def test_an_item_model_receives_named_inputs_and_parameters_as_keyword_arguments() -> None:
    loaded = LoadedModel(MODEL, Infer())
    assert run(loaded, OTHER) == InlineJson({"first": 4, "other": 5})
    assert run(loaded, OTHER, scale=2) == InlineJson({"first": 8, "other": 10})


def test_each_job_of_a_batch_has_its_own_named_inputs() -> None:
    loaded = LoadedModel(MODEL, Infer())
    items = [
        loaded.prepare(png(1), "image/png", {}, {"other": (png(width), "image/png")})
        for width in (2, 3)
    ]
    assert loaded.call_model(items) == [{"first": 1, "other": 2}, {"first": 1, "other": 3}]


def test_the_preprocess_method_of_a_batch_model_gets_named_inputs() -> None:
    class Batched:
        accepts: ClassVar[Accepts] = "image"

        def preprocess(self, item: Image.Image, *, other: Image.Image) -> int:
            return item.width * other.width

        def __call__(self, batch: list[int]) -> list[int]:
            return batch

    assert run(LoadedModel(COMPARED, Batched()), OTHER) == InlineJson(20)


def test_a_model_that_reports_progress_gets_a_context_and_the_named_inputs() -> None:
    class Long:
        def __call__(self, image: Image.Image, context: Context, *, other: Image.Image) -> int:
            context.check()
            return other.width

    loaded = LoadedModel(replace(COMPARED, reports_progress=True), Long())
    item = loaded.prepare(png(4), "image/png", {}, OTHER)
    assert loaded.call_model([item], [NullContext()]) == [5]


def test_an_optional_named_input_may_be_omitted() -> None:
    class Optional:
        def __call__(self, image: Image.Image, *, other: Image.Image | None = None) -> int:
            return 0 if other is None else other.width

    inputs = {"other": NamedInput(PICTURES, optional=True)}
    loaded = LoadedModel(replace(COMPARED, inputs=inputs), Optional())
    assert (run(loaded, {}), run(loaded, OTHER)) == (InlineJson(0), InlineJson(5))


def test_the_sample_input_of_an_item_model_contains_the_named_inputs() -> None:
    class Sampled(Infer):
        def sample(self) -> object:
            return Image.new("RGB", (1, 1)), {"other": Image.new("RGB", (2, 1))}

        def cost(self, item: Image.Image) -> float:
            return item.width

    loaded = LoadedModel(MODEL, Sampled())
    sample = loaded.sample()
    assert loaded.call_model([sample]) == [{"first": 1, "other": 2}]
    assert loaded.cost(sample) == 1


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        ({}, InvalidInput, "inputs.other: the input is missing"),
        ({**OTHER, "mask": OTHER["other"]}, InvalidInput, "inputs.mask: the model has no such"),
        ({"other": (b"{}", "application/json")}, UnsupportedMediaType, "inputs.other: compared"),
        ({"other": (png(101), "image/png")}, InvalidInput, "inputs.other: the image has 101 x 2"),
        ({"other": (png(5)[:55], "image/png")}, InvalidInput, "inputs.other: the image is damaged"),
    ],
    ids=["missing", "unknown", "media type", "too large", "damaged"],
)
def test_a_missing_or_unknown_or_unusable_named_input_is_refused(
    inputs: Mapping[str, tuple[bytes, str]], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(LoadedModel(MODEL, Infer()), inputs)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "compared.inputs: the key does not match .* models describe compared"),
        ({"mask": NamedInput(PICTURES)}, "compared.inputs: the key does not match"),
        ({"other": NamedInput(PICTURES, optional=True)}, "compared.inputs: the key does not match"),
        (
            {"other": NamedInput(("image/png", "text/plain"))},
            "inputs.other.media_types: text/plain cannot be decoded as image",
        ),
    ],
)
def test_a_model_class_whose_named_inputs_differ_from_the_catalogue_entry_is_refused(
    inputs: dict[str, NamedInput], said: str
) -> None:
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(replace(MODEL, inputs=inputs), Infer())


def test_a_model_that_reads_files_is_refused_if_it_has_named_inputs() -> None:
    class Reads(Infer):
        accepts: ClassVar[Accepts] = "file"

    with pytest.raises(ModelUnfit, match="accepts is 'file', which a model with named inputs"):
        LoadedModel(MODEL, Reads())


def test_the_type_hint_of_a_keyword_only_argument_makes_it_a_named_input_or_a_parameter() -> None:
    class Many:
        def __call__(
            self,
            text: str,
            *,
            picture: Image.Image,
            sound: Audio | None = None,
            data: bytes,
            array: npt.NDArray[np.float32],
            note: Annotated[str, Input("text"), "A note."] = "",
            table: Annotated[Any, Input("json")],
            title: str = "",
        ) -> None: ...

    assert read_input_arguments(Many()) == {
        "picture": InputArgument("image", False, ""),
        "sound": InputArgument("audio", True, ""),
        "data": InputArgument("bytes", False, ""),
        "array": InputArgument("tensor", False, ""),
        "note": InputArgument("text", True, "A note."),
        "table": InputArgument("json", False, ""),
    }
    assert list(read_arguments(Many())) == ["title"]


def test_a_named_input_of_an_unknown_kind_cannot_be_declared() -> None:
    with pytest.raises(
        ValueError, match="a named input cannot accept 'file'; expected one of audio"
    ):
        Input("file")


def test_the_memory_for_all_inputs_of_a_job_is_reserved_in_one_step() -> None:
    kind = InputKind("image")
    first, other = (open_input(kind, png(width), "image/png") for width in (100, 50))
    together = open_together(first, {"other": other})
    decoded = together.decode(keep_waiting)
    assert isinstance(decoded, DecodedInputs)
    assert (decoded.first.width, decoded.named["other"].width) == (100, 50)
    assert together.measure(keep_waiting) == first.measure(keep_waiting) + other.measure(
        keep_waiting
    )
    assert together.is_small


def test_two_small_inputs_of_a_job_count_as_a_large_input_if_their_sum_is_large() -> None:
    kind = InputKind("bytes")
    halves = [open_input(kind, bytes(9 * MIB), "application/octet-stream") for _ in range(2)]
    assert all(each.is_small for each in halves)
    assert not open_together(halves[0], {"other": halves[1]}).is_small


def test_a_child_process_measures_and_decodes_the_large_pictures_of_one_job() -> None:
    processes = DecoderProcesses(1)
    kind = InputKind("image")
    try:
        first, other = (
            open_input(kind, png(1500, height), "image/png", processes) for height in (1400, 1500)
        )
        assert not first.is_small
        together = open_together(first, {"other": other})
        decoded = together.decode(keep_waiting)
        assert (decoded.first.size, decoded.named["other"].size) == ((1500, 1400), (1500, 1500))
        assert together.measure(keep_waiting) == sum(
            each.measure(keep_waiting) for each in (first, other)
        )
        assert len(processes.child_pids) == 1
    finally:
        processes.close()


CATALOGUE = """
[compared]
implementation = "tests.unit.worker.test_worker_named_inputs"
description = "Compares."
media_types = ["image/png"]
{lines}
"""
LINES = """parameters.scale = {type = "integer", default = 1}
inputs.other = {media_types = ["image/jpeg", "image/png", "image/webp"], description = "Second."}
"""


def settings(folder: Path, lines: str) -> dict[str, str]:
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE.format(lines=lines), encoding="utf-8")
    return {"MODEL_CATALOGUE": str(catalogue)}


def test_the_describe_command_prints_the_catalogue_lines_for_the_named_inputs(
    tmp_path: Path,
) -> None:
    for lines in ("", LINES):
        output = io.StringIO()
        assert describe.main(["compared"], settings(tmp_path, lines), output) == 0
        assert output.getvalue() == LINES


def test_the_describe_command_reads_the_arguments_of_an_inherited_call_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inheriting.py").write_text(
        "class Base:\n"
        '    accepts = "bytes"\n'
        "    def __call__(self, data: bytes, *, scale: int = 1) -> int:\n"
        "        return scale\n\n"
        "class Infer(Base):\n"
        "    pass\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    values, output = settings(tmp_path, ""), io.StringIO()
    catalogue = Path(values["MODEL_CATALOGUE"])
    text = re.sub('implementation = ".*"', 'implementation = "inheriting"', catalogue.read_text())
    catalogue.write_text(text, encoding="utf-8")
    assert describe.main(["compared"], values, output) == 0
    assert output.getvalue() == 'parameters.scale = {type = "integer", default = 1}\n'


def test_the_check_command_runs_a_model_on_named_inputs(tmp_path: Path) -> None:
    first, other = tmp_path / "first.png", tmp_path / "other.png"
    first.write_bytes(png(4))
    other.write_bytes(png(5))
    environment, output = settings(tmp_path, LINES), io.StringIO()
    arguments = ["compared", str(first), "--input", f"other={other}"]
    assert check.main(arguments, environment, output) == 0
    found = [json.loads(line) for line in output.getvalue().splitlines()]
    assert found[1]["json"] == {"first": 4, "other": 5}
    output = io.StringIO()
    assert check.main(arguments[:2], environment, output) == 1
    assert "inputs.other: the input is missing" in output.getvalue()


def test_a_measurement_under_load_sends_the_named_inputs_inline_and_as_blobs(
    tmp_path: Path,
) -> None:
    class Lengths:
        accepts: ClassVar[Accepts] = "bytes"

        def __call__(self, first: bytes, *, other: bytes) -> list[int]:
            seen.add((len(first), len(other)))
            return [len(first), len(other)]

    seen = set[tuple[int, int]]()
    model = replace(
        COMPARED, inputs={"other": NamedInput(("text/plain",), "", False, 10**6, 10**6)}
    )
    model = replace(model, media_types=("text/plain",))
    memory = MemorySettings(folder=tmp_path, is_admitting=False)
    for size_bytes in (5, 100_000):
        load = LoadMeasurement(
            model,
            LoadedModel(model, Lengths()),
            b"first",
            "text/plain",
            memory,
            {"other": (bytes(size_bytes), "text/plain")},
        )
        assert load.measure(1, 1).latencies_ms
    assert seen == {(5, 5), (5, 100_000)}


@pytest.mark.parametrize("given", ["mask=a.png", "other", "other="])
def test_the_check_command_refuses_an_unknown_named_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    first = tmp_path / "first.png"
    first.write_bytes(png(4))
    arguments = ["compared", str(first), "--input", given]
    assert check.main(arguments, settings(tmp_path, LINES), io.StringIO()) == 2
    assert f"--input {given}: expected NAME=FILE" in capsys.readouterr().err
