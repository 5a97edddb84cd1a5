"""Test models with named inputs and named results: declared, passed, encoded, stored, printed."""

import base64
import io
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contract.catalogue import Catalogue
from contract.messages import (
    INLINE_LIMIT_BYTES,
    InlineBytes,
    InlineJson,
    Payload,
    PayloadRef,
    decode_reply,
    encode_reply,
)
from contract.named_tables import NamedInput, NamedResult
from contract.names import is_result_blob
from tests.unit.worker.pictures import MIB, white_png
from tests.unit.worker.recorded_jobs import RecordedJobs
from worker.errors import (
    InferenceFailed,
    InvalidInput,
    ModelUnfit,
    ResultTooLarge,
    UnsupportedMediaType,
)
from worker.inference import loaded_model
from worker.inference.declarations import (
    InputArgument,
    ResultDeclaration,
    read_arguments,
    read_declared_results,
    read_input_arguments,
)
from worker.inference.loaded_model import EncodedResults, LoadedModel, Result, encode_results
from worker.inputs.audio import Audio
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.opened import InputKind, keep_waiting, open_input, open_together
from worker.models import Accepts, Input, Results
from worker.settings import MemorySettings
from worker.tools import check, describe
from worker.tools.check_load import LoadMeasurement, ModelInput

PICTURES = ("image/png", "image/jpeg", "image/webp")
MASK, NOTE = NamedResult("image/png"), NamedResult("text/plain", optional=True)
PLAIN = replace(
    Catalogue.load()["noop"],
    name="cutter",
    implementation=__name__,
    media_types=PICTURES,
    max_pixels=10_000,
)
INPUT = replace(PLAIN, inputs={"other": NamedInput(PICTURES, max_pixels=100)})
RESULT = replace(PLAIN, results={"mask": MASK, "note": NOTE})
MODEL = replace(
    INPUT, results=RESULT.results, parameters={"scale": {"type": "integer", "default": 1}}
)
OTHER = {"other": (white_png(5), "image/png")}


class Cut(Results):
    mask: Annotated[Image.Image, "Where the object is."]
    note: str | None


class Infer:
    """A model that returns two widths, a mask, and a note if the second picture is wide."""

    def __call__(
        self, image: Image.Image, *, other: Annotated[Image.Image, "Second."], scale: int = 1
    ) -> Cut:
        note = "wide" if other.width > 9 else None
        widths = [image.width * scale, other.width * scale]
        return Cut(widths, mask=image.convert("L"), note=note)


def run(
    loaded: LoadedModel, inputs: Mapping[str, tuple[bytes, str]] = OTHER, **parameters: Any
) -> EncodedResults:
    item = loaded.prepare(white_png(4), "image/png", parameters, inputs)
    (output,) = loaded.call_without_jobs([item])
    return loaded.encode_output(output)


def returned(infer: Any, given: Mapping[str, tuple[bytes, str]], **entry: Any) -> object:
    first = run(LoadedModel(replace(INPUT, **entry), infer), given).first
    assert isinstance(first, InlineJson)
    return first.value


class TestInputs:
    def test_item_model_gets_keyword_arguments(self) -> None:
        loaded = LoadedModel(MODEL, Infer())
        assert run(loaded).first == InlineJson([4, 5])
        assert run(loaded, scale=2).first == InlineJson([8, 10])

    def test_preprocess_of_a_batch_model_gets_them(self) -> None:
        class Batched:
            accepts: ClassVar[Accepts] = "image"

            def preprocess(self, item: Image.Image, *, other: Image.Image) -> int:
                return item.width * other.width

            def __call__(self, batch: list[int]) -> list[int]:
                return batch

        assert returned(Batched(), OTHER) == 20

    def test_optional_one_may_be_omitted(self) -> None:
        class Omitting:
            def __call__(self, image: Image.Image, *, other: Image.Image | None = None) -> int:
                return 0 if other is None else other.width

        inputs = {"other": NamedInput(PICTURES, optional=True)}
        assert returned(Omitting(), {}, inputs=inputs) == 0
        assert returned(Omitting(), OTHER, inputs=inputs) == 5

    def test_sample_of_an_item_model_contains_them(self) -> None:
        class Sampled(Infer):
            def sample(self) -> object:
                return Image.new("RGB", (1, 1)), {"other": Image.new("RGB", (2, 1))}

            def cost(self, item: Image.Image) -> float:
                return item.width

        loaded = LoadedModel(MODEL, Sampled())
        (output,) = loaded.call_model([loaded.sample()])
        assert output.first == [1, 2]
        assert loaded.cost(loaded.sample()) == 1

    @pytest.mark.parametrize(
        ("inputs", "error", "said"),
        [
            ({}, InvalidInput, "inputs.other: the input is missing"),
            ({**OTHER, "mask": OTHER["other"]}, InvalidInput, "inputs.mask: the model has no such"),
            ({"other": (b"{}", "application/json")}, UnsupportedMediaType, "inputs.other: cutter"),
            ({"other": (white_png(101), "image/png")}, InvalidInput, "other: the image has 101 x"),
            ({"other": (white_png(5)[:55], "image/png")}, InvalidInput, "other: .* is damaged"),
        ],
        ids=["missing", "unknown", "media type", "too large", "damaged"],
    )
    def test_unusable_one_is_named_in_the_refusal(
        self, inputs: Mapping[str, tuple[bytes, str]], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            run(LoadedModel(MODEL, Infer()), inputs)

    @pytest.mark.parametrize(
        ("inputs", "said"),
        [
            ({}, "cutter.inputs: the key does not match .* models describe cutter"),
            ({"mask": NamedInput(PICTURES)}, "cutter.inputs: the key does not match"),
            ({"other": NamedInput(PICTURES, optional=True)}, "cutter.inputs: the key does not"),
            (
                {"other": NamedInput(("image/png", "text/plain"))},
                "inputs.other.media_types: text/plain cannot be decoded as image",
            ),
        ],
    )
    def test_class_that_differs_from_its_entry_is_refused(
        self, inputs: dict[str, NamedInput], said: str
    ) -> None:
        with pytest.raises(ModelUnfit, match=said):
            LoadedModel(replace(MODEL, inputs=inputs), Infer())

    def test_model_that_reads_files_is_refused(self) -> None:
        class Reads(Infer):
            accepts: ClassVar[Accepts] = "file"

        with pytest.raises(ModelUnfit, match="accepts is 'file', which a model with named inputs"):
            LoadedModel(MODEL, Reads())

    def test_type_hint_tells_them_from_parameters(self) -> None:
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

    def test_unknown_kind_cannot_be_declared(self) -> None:
        with pytest.raises(ValueError, match="cannot accept 'file'; expected one of audio"):
            Input("file")

    def test_small_ones_are_large_if_their_sum_is(self) -> None:
        halves = [open_input(InputKind("bytes"), bytes(9 * MIB), "a/b") for _ in range(2)]
        assert all(each.is_small for each in halves)
        assert not open_together(halves[0], {"other": halves[1]}).is_small

    @pytest.mark.parametrize("side", [100, 1500])
    def test_memory_of_a_job_is_measured_in_one_step(self, side: int) -> None:
        processes, kind = DecoderProcesses(1), InputKind("image")
        try:
            first, other = (
                open_input(kind, white_png(side, height), "image/png", processes)
                for height in (side, side - 10)
            )
            together = open_together(first, {"other": other})
            decoded = together.decode(keep_waiting)
            sizes = decoded.first.size, decoded.named["other"].size
            assert sizes == ((side, side), (side, side - 10))
            sum_bytes = first.measure(keep_waiting) + other.measure(keep_waiting)
            assert together.measure(keep_waiting) == sum_bytes
            # Large pictures are measured and decoded by one child process.
            assert (together.is_small, len(processes.child_pids)) == (side == 100, side != 100)
        finally:
            processes.close()


class TestResults:
    def test_encoded_in_the_types_of_the_entry(self) -> None:
        found = run(LoadedModel(MODEL, Infer()), {"other": (white_png(12), "image/png")})
        assert list(found.named) == ["mask", "note"]
        assert found.named["note"] == InlineBytes("text/plain", b"wide")
        mask = found.named["mask"]
        assert isinstance(mask, InlineBytes)
        with Image.open(io.BytesIO(mask.data)) as picture:
            assert (mask.media_type, picture.size, picture.mode) == ("image/png", (4, 2), "L")

    def test_optional_one_that_is_none_or_absent_is_omitted(self) -> None:
        assert list(run(LoadedModel(MODEL, Infer())).named) == ["mask"]
        assert list(encode_results(Results(1, mask=b"png"), RESULT).named) == ["mask"]
        model = replace(RESULT, results={"note": NOTE})
        assert encode_results({"a": 1}, model) == EncodedResults(InlineJson({"a": 1}), {})

    def test_required_json_may_be_null(self) -> None:
        model = replace(RESULT, results={"box": NamedResult("application/json")})
        assert encode_results(Results(1, box=None), model).named == {"box": InlineJson(None)}

    def test_batch_model_returns_them_at_both_steps(self) -> None:
        class Batched:
            accepts: ClassVar[Accepts] = "image"

            def preprocess(self, item: Image.Image) -> int:
                return item.width

            def __call__(self, batch: list[int]) -> list[Results]:
                return [Results(width, mask=b"png") for width in batch]

        class Postprocessed(Batched):
            def postprocess(self, output: Results) -> Results:
                return Results(-output.first, mask=output.mask)

        for infer, first in ((Batched(), 4), (Postprocessed(), -4)):
            expected = EncodedResults(InlineJson(first), {"mask": InlineBytes("image/png", b"png")})
            assert run(LoadedModel(RESULT, infer), {}) == expected

    @pytest.mark.parametrize("copy", [lambda each: pickle.loads(pickle.dumps(each)), deepcopy])
    def test_pickled_or_copied_object_keeps_its_values(self, copy: Callable[[Cut], Cut]) -> None:
        given = Cut({"width": 4}, mask=b"png", note="wide")
        found = copy(given)
        assert type(found) is Cut
        assert (found.first, found.named) == ({"width": 4}, {"mask": b"png", "note": "wide"})
        assert found.note == "wide"
        assert found.first is not given.first
        assert found.named is not given.named

    def test_named_result_is_an_attribute(self) -> None:
        mask = Image.new("L", (1, 1))
        found = Cut(1, mask=mask)
        assert (found.first, found.mask, dict(found.named)) == (1, mask, {"mask": mask})
        with pytest.raises(AttributeError, match="note"):
            _ = found.note
        with pytest.raises(AttributeError, match="named"):
            _ = Results.__new__(Results).anything

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            ({"a": 1}, r"mask: the model did not return this result; return Results\(…, mask"),
            (Results(1, note="a"), "results.mask: the model did not return this result"),
            (Results(1, mask=None), "mask: .* which cannot be encoded as image/png"),
            (Results(1, mask={"a": 1}), "mask: .* which cannot be encoded as image/png"),
            (Results(1, mask=b"", note=7), "note: .* a int, which cannot be encoded as text/plain"),
            (Results(1, mask=b"", crop=b""), "crop: .* no such result; .* are: mask, note"),
        ],
    )
    def test_unusable_one_is_named_in_the_error(self, result: object, said: str) -> None:
        with pytest.raises(InferenceFailed, match=said):
            encode_results(result, RESULT)

    def test_unexpected_one_fails_the_job(self) -> None:
        with pytest.raises(InferenceFailed, match=r"results.mask: .* results are: none"):
            encode_results(Results(1, mask=b""), PLAIN)

    def test_return_type_hint_declares_them(self) -> None:
        class Many(Results):
            picture: Image.Image
            data: Annotated[bytes, "Raw."]
            anything: Any
            inner: Annotated[Image.Image, "A mask."] | None
            outer: Annotated[Image.Image | None, "A mask."]
            table: Annotated[dict[str, int] | None, "A table."]
            written: Optional[Annotated[bytes, "Raw."]]  # noqa: UP045  the older form of `| None`
            both: Annotated[Annotated[str, "Inner."] | None, "Outer."]
            nested: Annotated[Annotated[str | None, 7], 8] | None
            mixed: Annotated[bytes, "Raw."] | str | None

        class Batched:
            def __call__(self, batch: list[int]) -> Sequence[Many]:
                return [Many(each) for each in batch]

        json_type, text = "application/json", ("text/*", "application/json")
        expected = {
            "picture": ResultDeclaration(PICTURES, False, ""),
            "data": ResultDeclaration(("*/*",), False, "Raw."),
            "anything": ResultDeclaration((), False, ""),
            "inner": ResultDeclaration(PICTURES, True, "A mask."),
            "outer": ResultDeclaration(PICTURES, True, "A mask."),
            "table": ResultDeclaration((json_type,), True, "A table."),
            "written": ResultDeclaration(("*/*",), True, "Raw."),
            "both": ResultDeclaration(text, True, "Outer."),
            "nested": ResultDeclaration(text, True, ""),
            "mixed": ResultDeclaration((), True, ""),
        }
        assert read_declared_results(Batched()) == read_declared_results(Batched) == expected
        defaults = {name: each.default_media_type for name, each in expected.items()}
        assert [defaults[name] for name in ("picture", "data", "anything", "table", "both")] == [
            *("image/png", "application/octet-stream", json_type, json_type, "text/plain")
        ]

    def test_only_a_subclass_of_results_declares_them(self) -> None:
        def plain(item: object) -> Results:
            return Results(item)

        class Untyped:
            def __call__(self, item):  # type: ignore[no-untyped-def]
                return item

        assert [read_declared_results(each) for each in (plain, Untyped(), len)] == [{}] * 3

    @pytest.mark.parametrize(
        ("results", "said"),
        [
            ({}, "cutter.results: the key does not describe what .* models describe cutter"),
            ({"mask": MASK}, "cutter.results: the key does not describe"),
            ({"mask": MASK, "note": NamedResult("text/plain")}, "results: the key does not"),
            (
                {"mask": NamedResult("audio/wav"), "note": NOTE},
                "results.mask.media_type: the model does not return audio/wav; expected image",
            ),
            (
                {"mask": MASK, "note": NamedResult("image/png", optional=True)},
                r"note.media_type: .* image/png; expected text/\* or application/json",
            ),
        ],
    )
    def test_class_that_differs_from_its_entry_is_refused(
        self, results: dict[str, NamedResult], said: str
    ) -> None:
        with pytest.raises(ModelUnfit, match=said):
            LoadedModel(replace(MODEL, results=results), Infer())

    def test_bytes_may_have_any_type_except_json(self) -> None:
        class Raw(Results):
            data: bytes

        def find(item: object) -> Raw:
            return Raw(item)

        with pytest.raises(ModelUnfit, match=r"json; expected any type except application/json$"):
            LoadedModel(replace(PLAIN, results={"data": NamedResult("application/json")}), find)
        LoadedModel(replace(PLAIN, results={"data": NamedResult("audio/wav")}), find)


class Unresolved(Results):
    mask: "MissingPicture"  # type: ignore[name-defined]  # noqa: F821


def return_unresolved(item: object) -> Unresolved:
    return Unresolved(item)


def return_missing(item: object) -> "MissingResults":  # type: ignore[name-defined]  # noqa: F821
    return item


@pytest.mark.parametrize(
    ("infer", "said"),
    [
        (return_unresolved, "Unresolved: a type hint contains MissingPicture, which does not"),
        (return_missing, "return_missing: a type hint contains MissingResults, .* TYPE_CHECKING"),
    ],
)
def test_hint_that_only_type_checkers_know_is_refused(
    infer: Callable[[object], object], said: str
) -> None:
    with pytest.raises(ModelUnfit, match=said):
        read_declared_results(infer)
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(RESULT, infer)
    # It is accepted if the entry has no named results.
    LoadedModel(PLAIN, return_missing)


class TestReply:
    @pytest.fixture(autouse=True)
    def _jobs(self) -> None:
        self.jobs = RecordedJobs()

    def pack(self, results: EncodedResults) -> tuple[Any, dict[str, Payload]]:
        """Return the first result and the named results in the reply to a job."""
        job = self.jobs.job()
        reply = job.make_reply(*self.jobs.consumer.reply.store_results(job, results))
        found = decode_reply(encode_reply(reply))
        return found.outcome, dict(found.results)

    def test_inline_results_together_stay_within_the_limit(self) -> None:
        large = InlineBytes("image/png", bytes(INLINE_LIMIT_BYTES + 1))
        half = InlineBytes("image/png", bytes(INLINE_LIMIT_BYTES // 2))
        given: dict[str, Result] = {"a": half, "b": half, "c": half, "d": InlineJson([])}
        first, named = self.pack(EncodedResults(large, given))
        assert (named["a"], named["b"]) == (half, half)
        blobs = {}
        for stored, media_type in (
            (first, "image/png"),
            (named["c"], "image/png"),
            (named["d"], "application/json"),
        ):
            assert isinstance(stored, PayloadRef)
            assert is_result_blob("job", stored.blob)
            assert not is_result_blob("jo", stored.blob)
            assert stored.media_type == media_type
            blobs[stored.blob] = stored.size_bytes
        assert blobs == {name: len(data) for name, data in self.jobs.blobs.blobs.items()}
        assert len(blobs) == 3, "each has a blob of its own"

    def test_error_names_the_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unwritable = EncodedResults(InlineJson(1), {"box": InlineJson([float("nan")])})
        with pytest.raises(InferenceFailed, match=r"results.box: .* result\[0\] is nan"):
            self.pack(unwritable)
        monkeypatch.setattr(loaded_model, "MAX_RESULT_BYTES", 10)
        for sizes, said in (((1, 11), "results.a: .* has 11 bytes"), ((5, 6), "bytes in total")):
            first, other = (InlineBytes("a/b", bytes(size)) for size in sizes)
            with pytest.raises(ResultTooLarge, match=said):
                self.pack(EncodedResults(first, {"a": other}))
        assert self.jobs.blobs.blobs == {}


CATALOGUE = """
[cutter]
implementation = "tests.unit.worker.test_worker_named_values"
description = "Cuts."
media_types = ["image/png"]
"""
LINES = """parameters.scale = {type = "integer", default = 1}
inputs.other = {media_types = ["image/jpeg", "image/png", "image/webp"], description = "Second."}
results.mask = {media_type = "image/png", description = "Where the object is."}
results.note = {media_type = "text/plain", optional = true}
"""


class TestTools:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        (tmp_path / "first.png").write_bytes(white_png(4))
        (tmp_path / "other.png").write_bytes(white_png(12))

    def settings(self, lines: str = LINES) -> dict[str, str]:
        catalogue = self.folder / "models.toml"
        catalogue.write_text(CATALOGUE + lines, encoding="utf-8")
        return {"MODEL_CATALOGUE": str(catalogue)}

    def check(self, *arguments: str, lines: str = LINES) -> tuple[int, list[dict[str, Any]]]:
        output = io.StringIO()
        first = str(self.folder / "first.png")
        code = check.main(["cutter", first, *arguments], self.settings(lines), output)
        return code, [json.loads(line) for line in output.getvalue().splitlines()]

    def test_describe_prints_the_lines_of_the_entry(self) -> None:
        webp = LINES.replace('mask = {media_type = "image/png', 'mask = {media_type = "image/webp')
        for given, expected in (("", LINES), (LINES, LINES), (webp, webp)):
            output = io.StringIO()
            assert describe.main(["cutter"], self.settings(given), output) == 0
            assert output.getvalue() == expected

    def test_help_of_describe_says_what_it_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            describe.main(["--help"], {}, io.StringIO())
        text = " ".join(capsys.readouterr().out.split())
        assert "a model's parameters, named inputs and named results as TOML" in text

    def test_check_sends_inputs_and_prints_results(self) -> None:
        code, found = self.check("--input", f"other={self.folder / 'other.png'}")
        assert (code, found[1]["json"]) == (0, [4, 12])
        results = found[1]["results"]
        assert list(results) == ["mask", "note"]
        assert results["mask"]["media_type"] == "image/png"
        note = results["note"]
        assert (base64.b64decode(note["base64"]), note["size_bytes"]) == (b"wide", 4)
        code, found = self.check()
        assert code == 1
        assert "inputs.other: the input is missing" in found[-1]["detail"]
        code, found = self.check(lines="")
        assert (code, found[-1]["code"]) == (1, "model-unfit")

    @pytest.mark.parametrize("given", ["mask=a.png", "other", "other="])
    def test_check_refuses_an_unknown_input(
        self, capsys: pytest.CaptureFixture[str], given: str
    ) -> None:
        assert self.check("--input", given)[0] == 2
        assert f"--input {given}: expected NAME=FILE" in capsys.readouterr().err

    def test_load_measurement_sends_and_stores_large_ones(self) -> None:
        class Lengths:
            accepts: ClassVar[Accepts] = "bytes"

            def __call__(self, first: bytes, *, other: bytes) -> Results:
                seen.add((len(first), len(other)))
                return Results(1, mask=bytes(INLINE_LIMIT_BYTES + 1))

        seen = set[tuple[int, int]]()
        inputs = {"other": NamedInput(("text/plain",), "", False, 10**6, 10**6)}
        model = replace(RESULT, media_types=("text/plain",), inputs=inputs)
        memory = MemorySettings(folder=self.folder, is_admitting=False)
        for size_bytes in (5, 100_000):
            other = {"other": (bytes(size_bytes), "text/plain")}
            sample = ModelInput(b"first", "text/plain", other)
            load = LoadMeasurement(model, LoadedModel(model, Lengths()), sample, memory)
            assert load.measure(1, 1).latencies_ms
        assert seen == {(5, 5), (5, 100_000)}
