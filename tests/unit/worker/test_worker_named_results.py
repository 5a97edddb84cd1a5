"""Test models with named results: how they are declared, returned, stored and printed."""

import base64
import io
import json
import pickle
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional

import pytest
from PIL import Image

from contract.catalogue import Catalogue
from contract.messages import (
    INLINE_LIMIT_BYTES,
    InlineBytes,
    InlineJson,
    PayloadRef,
    decode_reply,
    encode_reply,
)
from contract.named_tables import NamedResult
from contract.names import is_result_blob
from tests.unit.worker.test_worker_consumer import RecordedJobs
from worker.errors import InferenceFailed, ModelUnfit, ResultTooLarge
from worker.inference import loaded_model
from worker.inference.declarations import ResultDeclaration, read_declared_results
from worker.inference.loaded_model import EncodedResults, LoadedModel, encode_results
from worker.inputs.payloads import BlobPayloads
from worker.models import Accepts, Results
from worker.pipeline.reply import ReplyStep
from worker.settings import MemorySettings
from worker.tools import check, describe
from worker.tools.check_load import LoadMeasurement

PICTURE = NamedResult("image/png")
MODEL = replace(
    Catalogue.load()["noop"],
    name="cutter",
    implementation="tests.unit.worker.test_worker_named_results",
    media_types=("image/png",),
    results={"mask": PICTURE, "note": NamedResult("text/plain", optional=True)},
)


def png(width: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (width, 2), 255).save(data, "PNG")
    return data.getvalue()


class Cut(Results):
    """The results of the model `Infer`: a width, a mask, and a note if the picture is wide."""

    mask: Annotated[Image.Image, "Where the object is."]
    note: str | None


class Infer:
    """A model that returns the width of a picture, a mask, and a note if the picture is wide."""

    def __call__(self, image: Image.Image) -> Cut:
        note = "wide" if image.width > 9 else None
        return Cut({"width": image.width}, mask=image.convert("L"), note=note)


def run(loaded: LoadedModel, width: int = 4) -> EncodedResults:
    (output,) = loaded.call_model([loaded.prepare(png(width), "image/png")])
    return loaded.encode_output(output)


def test_named_results_are_encoded_in_the_media_types_of_the_catalogue_entry() -> None:
    found = run(LoadedModel(MODEL, Infer()), width=12)
    assert found.first == InlineJson({"width": 12})
    assert list(found.named) == ["mask", "note"]
    assert found.named["note"] == InlineBytes("text/plain", b"wide")
    mask = found.named["mask"]
    assert isinstance(mask, InlineBytes)
    with Image.open(io.BytesIO(mask.data)) as picture:
        assert (mask.media_type, picture.size, picture.mode) == ("image/png", (12, 2), "L")


def test_an_optional_named_result_that_is_none_or_was_not_returned_is_not_encoded() -> None:
    assert list(run(LoadedModel(MODEL, Infer())).named) == ["mask"]
    assert list(encode_results(Results(1, mask=b"png"), MODEL).named) == ["mask"]


def test_a_json_result_that_is_not_optional_may_be_null() -> None:
    model = replace(MODEL, results={"box": NamedResult("application/json")})
    assert encode_results(Results(1, box=None), model).named == {"box": InlineJson(None)}


def test_a_model_whose_named_results_are_all_optional_may_return_only_the_first_result() -> None:
    model = replace(MODEL, results={"note": NamedResult("text/plain", optional=True)})
    assert encode_results({"a": 1}, model) == EncodedResults(InlineJson({"a": 1}), {})


def test_the_call_or_the_postprocess_method_of_a_batch_model_can_return_named_results() -> None:
    class Batched:
        accepts: ClassVar[Accepts] = "image"

        def preprocess(self, item: Image.Image) -> int:
            return item.width

        def __call__(self, batch: list[int]) -> list[Results]:
            return [Results(width, mask=png(width)) for width in batch]

    class Postprocessed(Batched):
        def postprocess(self, output: Results) -> Results:
            return Results(-output.first, mask=output.mask)

    expected = {"mask": InlineBytes("image/png", png(4))}
    assert run(LoadedModel(MODEL, Batched())) == EncodedResults(InlineJson(4), expected)
    assert run(LoadedModel(MODEL, Postprocessed())) == EncodedResults(InlineJson(-4), expected)


@pytest.mark.parametrize("duplicate", [lambda each: pickle.loads(pickle.dumps(each)), deepcopy])
def test_a_results_object_keeps_its_values_when_the_object_is_pickled_or_copied(
    duplicate: Callable[[Cut], Cut],
) -> None:
    mask: Any = b"png"
    given = Cut({"width": 4}, mask=mask, note="wide")
    found = duplicate(given)
    assert type(found) is Cut
    assert (found.first, found.named) == ({"width": 4}, {"mask": b"png", "note": "wide"})
    assert (found.mask, found.note) == (mask, "wide")
    assert found.first is not given.first
    assert found.named is not given.named


def test_a_named_result_is_an_attribute_of_the_returned_object() -> None:
    mask = Image.new("L", (1, 1))
    found = Cut(1, mask=mask)
    assert (found.first, found.mask, dict(found.named)) == (1, mask, {"mask": mask})
    with pytest.raises(AttributeError, match="note"):
        _ = found.note
    with pytest.raises(AttributeError, match="named"):
        _ = Results.__new__(Results).anything


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"a": 1}, r"results.mask: the model did not return this result; return Results\(…, mask"),
        (Results(1, note="a"), "results.mask: the model did not return this result"),
        (
            Results(1, mask=None),
            "results.mask: the model returned a .*, which cannot be encoded as image/png",
        ),
        (
            Results(1, mask={"a": 1}),
            "results.mask: the model returned a .*, which cannot be encoded as image/png",
        ),
        (
            Results(1, mask=b"", note=7),
            "results.note: the model returned a int, which cannot be encoded as text/plain",
        ),
        (
            Results(1, mask=b"", crop=b""),
            "results.crop: the model's catalogue entry has no such result; .* are: mask, note",
        ),
    ],
)
def test_a_job_fails_if_a_named_result_is_missing_or_unknown_or_has_the_wrong_type(
    returned: object, said: str
) -> None:
    with pytest.raises(InferenceFailed, match=said):
        encode_results(returned, MODEL)


def test_a_job_fails_if_the_catalogue_entry_has_no_named_results_but_the_model_returns_some() -> (
    None
):
    with pytest.raises(InferenceFailed, match=r"results.mask: .* results are: none"):
        LoadedModel(replace(MODEL, results={}), _plain).encode_output(Results(1, mask=b""))


def _plain(item: object) -> object:
    return item


def test_the_return_type_hint_of_a_model_declares_the_named_results() -> None:
    class Many(Results):
        picture: Image.Image
        data: Annotated[bytes, "Raw."]
        text: str | None
        table: Annotated[dict[str, int] | None, "A table."]
        anything: Any

    class Batched:
        def __call__(self, batch: list[int]) -> Sequence[Many]:
            return [Many(each) for each in batch]

    pictures = ("image/png", "image/jpeg", "image/webp")
    assert read_declared_results(Batched()) == {
        "picture": ResultDeclaration(pictures, False, ""),
        "data": ResultDeclaration(("*/*",), False, "Raw."),
        "text": ResultDeclaration(("text/*", "application/json"), True, ""),
        "table": ResultDeclaration(("application/json",), True, "A table."),
        "anything": ResultDeclaration((), False, ""),
    }
    assert read_declared_results(Batched) == read_declared_results(Batched())
    defaults = [each.default_media_type for each in read_declared_results(Batched).values()]
    assert defaults == [
        *("image/png", "application/octet-stream", "text/plain"),
        *("application/json", "application/json"),
    ]


def test_the_type_hint_of_a_named_result_may_contain_none_and_a_description_in_any_order() -> None:
    class Found(Results):
        inner: Annotated[Image.Image, "A mask."] | None
        outer: Annotated[Image.Image | None, "A mask."]
        written: Optional[Annotated[bytes, "Raw."]]  # noqa: UP045  the older form of `| None`
        both: Annotated[Annotated[str, "Inner."] | None, "Outer."]
        nested: Annotated[Annotated[str | None, 7], 8] | None
        mixed: Annotated[bytes, "Raw."] | str | None

    def find(item: object) -> Found:
        return Found(item)

    pictures, text = ("image/png", "image/jpeg", "image/webp"), ("text/*", "application/json")
    assert read_declared_results(find) == {
        "inner": ResultDeclaration(pictures, True, "A mask."),
        "outer": ResultDeclaration(pictures, True, "A mask."),
        "written": ResultDeclaration(("*/*",), True, "Raw."),
        "both": ResultDeclaration(text, True, "Outer."),
        "nested": ResultDeclaration(text, True, ""),
        "mixed": ResultDeclaration((), True, ""),
    }


class Unresolved(Results):
    """Declares a result whose type hint contains a name that does not exist at run time."""

    mask: "MissingPicture"  # type: ignore[name-defined]  # noqa: F821


def return_unresolved(item: object) -> Unresolved:
    return Unresolved(item)


def return_missing(item: object) -> "MissingResults":  # type: ignore[name-defined]  # noqa: F821
    return item


@pytest.mark.parametrize(
    ("infer", "said"),
    [
        (
            return_unresolved,
            "Unresolved: a type hint contains MissingPicture, which does not exist",
        ),
        (return_missing, "return_missing: a type hint contains MissingResults, .* TYPE_CHECKING"),
    ],
)
def test_a_model_with_named_results_is_refused_if_a_type_hint_cannot_be_resolved_at_run_time(
    infer: Callable[[object], object], said: str
) -> None:
    with pytest.raises(ModelUnfit, match=said):
        read_declared_results(infer)
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(MODEL, infer)


def test_a_model_without_named_results_may_have_a_type_hint_that_cannot_be_resolved() -> None:
    LoadedModel(replace(MODEL, results={}), return_missing)


def test_a_return_type_hint_declares_named_results_only_if_it_is_a_subclass_of_results() -> None:
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
        ({"mask": PICTURE}, "cutter.results: the key does not describe"),
        (
            {"mask": PICTURE, "note": NamedResult("text/plain")},
            "cutter.results: the key does not describe",
        ),
        (
            {"mask": NamedResult("audio/wav"), "note": NamedResult("text/plain", optional=True)},
            "cutter.results.mask.media_type: the model does not return audio/wav; expected image",
        ),
        (
            {"mask": PICTURE, "note": NamedResult("image/png", optional=True)},
            r"note.media_type: .* image/png; expected text/\* or application/json",
        ),
    ],
)
def test_a_model_class_whose_declared_results_differ_from_the_catalogue_entry_is_refused(
    results: dict[str, NamedResult], said: str
) -> None:
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(replace(MODEL, results=results), Infer())


def test_a_named_result_of_type_bytes_may_have_any_media_type_except_json() -> None:
    class Raw(Results):
        data: bytes

    def find(item: object) -> Raw:
        return Raw(item)

    said = "does not return application/json; expected any type except application/json$"
    with pytest.raises(ModelUnfit, match=said):
        LoadedModel(replace(MODEL, results={"data": NamedResult("application/json")}), find)
    LoadedModel(replace(MODEL, results={"data": NamedResult("audio/wav")}), find)


def pack(results: EncodedResults) -> tuple[RecordedJobs, Any, dict[str, Any]]:
    """Put the results of a job into its reply.

    Returns:
        An object that replaces the consumer and keeps the large results in its attribute `blobs`;
        the first result in the reply; and the named results in the reply.
    """
    jobs = RecordedJobs()
    step = ReplyStep(BlobPayloads(jobs.blobs), jobs.reply._senders, jobs.cache, jobs.in_flight)
    job = jobs.job()
    reply = decode_reply(encode_reply(job.make_reply(*step.store_results(job, results))))
    return jobs, reply.outcome, dict(reply.results)


def test_the_total_size_of_the_inline_results_in_a_reply_does_not_exceed_the_limit() -> None:
    half = InlineBytes("image/png", bytes(INLINE_LIMIT_BYTES // 2))
    rest = InlineBytes("image/png", bytes(INLINE_LIMIT_BYTES // 2 - 1))
    jobs, first, named = pack(
        EncodedResults(InlineJson(1), {"a": half, "b": half, "c": rest, "d": InlineJson([])})
    )
    assert (first, named["a"], named["c"]) == (InlineJson(1), half, rest)
    for name in ("b", "d"):
        stored = named[name]
        assert isinstance(stored, PayloadRef)
        assert is_result_blob("job", stored.blob)
        assert len(jobs.blobs.blobs[stored.blob]) == stored.size_bytes
    assert [named[name].media_type for name in ("b", "d")] == ["image/png", "application/json"]
    assert len(jobs.blobs.blobs) == 2


def test_each_large_result_has_a_blob_of_its_own() -> None:
    large = InlineBytes("image/png", bytes(INLINE_LIMIT_BYTES + 1))
    jobs, first, named = pack(EncodedResults(large, {"a": large, "b": large}))
    blobs = {first.blob, named["a"].blob, named["b"].blob}
    assert blobs == set(jobs.blobs.blobs)
    assert len(blobs) == 3


def test_the_error_for_a_named_result_that_cannot_be_sent_names_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = RecordedJobs()
    step = ReplyStep(BlobPayloads(jobs.blobs), jobs.reply._senders, jobs.cache, jobs.in_flight)
    unwritable = EncodedResults(InlineJson(1), {"box": InlineJson([float("nan")])})
    with pytest.raises(InferenceFailed, match=r"results.box: .* result\[0\] is nan"):
        step.store_results(jobs.job(), unwritable)
    monkeypatch.setattr(loaded_model, "MAX_RESULT_BYTES", 10)
    for sizes, said in (
        ((1, 11), "results.a: the result has 11 bytes"),
        ((5, 6), "bytes in total"),
    ):
        first, other = (InlineBytes("a/b", bytes(size)) for size in sizes)
        with pytest.raises(ResultTooLarge, match=said):
            step.store_results(jobs.job(), EncodedResults(first, {"a": other}))
    assert jobs.blobs.blobs == {}


CATALOGUE = """
[cutter]
implementation = "tests.unit.worker.test_worker_named_results"
description = "Cuts."
media_types = ["image/png"]
{lines}
"""
LINES = """results.mask = {media_type = "image/png", description = "Where the object is."}
results.note = {media_type = "text/plain", optional = true}
"""


def settings(folder: Path, lines: str) -> dict[str, str]:
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE.format(lines=lines), encoding="utf-8")
    return {"MODEL_CATALOGUE": str(catalogue)}


def test_the_describe_command_prints_the_catalogue_lines_for_the_named_results(
    tmp_path: Path,
) -> None:
    webp = LINES.replace("image/png", "image/webp")
    for given, expected in (("", LINES), (LINES, LINES), (webp, webp)):
        output = io.StringIO()
        assert describe.main(["cutter"], settings(tmp_path, given), output) == 0
        assert output.getvalue() == expected


def test_the_help_of_the_describe_command_names_everything_that_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        describe.main(["--help"], {}, io.StringIO())
    text = " ".join(capsys.readouterr().out.split())
    assert "a model's parameters, named inputs and named results as TOML" in text


def test_the_check_command_prints_the_named_results(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(12))
    output = io.StringIO()
    assert check.main(["cutter", str(picture)], settings(tmp_path, LINES), output) == 0
    found = json.loads(output.getvalue().splitlines()[1])
    assert found["json"] == {"width": 12}
    assert list(found["results"]) == ["mask", "note"]
    assert found["results"]["mask"]["media_type"] == "image/png"
    note = found["results"]["note"]
    assert (base64.b64decode(note["base64"]), note["size_bytes"]) == (b"wide", 4)
    output = io.StringIO()
    assert check.main(["cutter", str(picture)], settings(tmp_path, ""), output) == 1
    assert "model-unfit" in output.getvalue()


def test_a_measurement_under_load_stores_large_named_results(tmp_path: Path) -> None:
    class Large:
        def __call__(self, item: Image.Image) -> Results:
            threads.add(threading.current_thread().name)
            return Results(1, mask=bytes(INLINE_LIMIT_BYTES + 1))

    threads = set[str]()
    memory = MemorySettings(folder=tmp_path, is_admitting=False)
    loaded = LoadedModel(MODEL, Large())
    load = LoadMeasurement(MODEL, loaded, png(4), "image/png", memory)
    assert load.measure(1, 1).latencies_ms
    assert threads
