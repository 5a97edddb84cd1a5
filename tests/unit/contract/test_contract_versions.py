from pathlib import Path

import pytest

from contract import queues
from contract.__main__ import main
from contract.catalogue import (
    Catalogue,
    choose_version,
    format_entry,
    join_name,
    split_name,
)
from contract.errors import CatalogueError, UnknownModel
from tests.unit.contract.catalogue_files import load

MODEL = """
[small]
implementation = "models.small"
description = "A small model."
media_types = ["application/json"]
weights = "blob:weights/one.safetensors"
weights_sha256 = "abababababababababababababababababababababababababababababababab"
options = {width = 1}
max_batch_size = 4
versions = {"1" = 95, "2" = 5}
fallback = "1"

[small."2"]
weights = "blob:weights/two.safetensors"
weights_sha256 = "abababababababababababababababababababababababababababababababab"
max_batch_size = 2

[small."10"]
implementation = "models.other"
"""


JOB_IDS = [f"01982f0c-5f0e-7d4a-9a53-{number:012x}" for number in range(10_000)]


@pytest.mark.parametrize("percent", [5, 50])
def test_each_version_gets_its_percentage_of_jobs(percent: int) -> None:
    chosen = [choose_version({"1": 100 - percent, "2": percent}, job_id) for job_id in JOB_IDS]
    expected = len(JOB_IDS) * percent / 100
    deviation = (expected * (1 - percent / 100)) ** 0.5
    assert abs(chosen.count("2") - expected) <= 2 * deviation


def test_job_id_selects_the_same_version_forever() -> None:
    chosen = (choose_version({"1": 50, "2": 50}, job_id) for job_id in JOB_IDS[:20])
    assert "".join(chosen) == "22121211122121211221"


def test_version_with_0_percent_gets_no_job() -> None:
    percentages = {"1": 0, "2": 100, "3": 0}
    assert {choose_version(percentages, job_id) for job_id in JOB_IDS[:500]} == {"2"}


def test_versions_inherit_the_named_inputs(tmp_path: Path) -> None:
    inputs = 'inputs.mask = {media_types = ["image/png"]}\nmax_batch_size = 4'
    catalogue = load(tmp_path, MODEL.replace("max_batch_size = 4", inputs))
    assert {model.required_inputs for model in catalogue.values()} == {("mask",)}


def test_each_version_has_an_entry_and_a_queue(tmp_path: Path) -> None:
    catalogue = load(tmp_path, MODEL)
    assert list(catalogue) == ["small", "small:2", "small:10"]
    assert [model.queue for model in catalogue.values()] == ["small", "small-v2", "small-v10"]
    assert [model.job_percent for model in catalogue.values()] == [95, 5, 0]
    assert {"small", "small-low", "small-v2", "small-v2-low"} < queues.names(catalogue)
    found = catalogue.find_queue("small-v2-low")
    assert found is not None
    assert found[0] is catalogue["small:2"]


def test_unchanged_keys_are_inherited(tmp_path: Path) -> None:
    catalogue = load(tmp_path, MODEL)
    first, second = catalogue["small"], catalogue["small:2"]
    assert second.implementation == first.implementation
    assert dict(second.options) == {"width": 1}
    assert (second.weights, second.max_batch_size) == ("blob:weights/two.safetensors", 2)
    # Another implementation has other weights and options.
    other = catalogue["small:10"]
    assert (other.weights, other.weights_sha256, dict(other.options)) == ("", "", {})
    assert other.max_batch_size == first.max_batch_size


def test_name_selects_one_version_or_all(tmp_path: Path) -> None:
    catalogue = load(tmp_path, MODEL)
    assert catalogue.model("small:1") is catalogue.model("small") is catalogue["small"]
    assert [model.name for model in catalogue.matching("small:1")] == ["small"]
    assert [model.name for model in catalogue.matching("small:2")] == ["small:2"]
    assert [model.name for model in catalogue.matching("small")] == list(catalogue)
    with pytest.raises(UnknownModel, match="did you mean small"):
        catalogue.model("small:3")
    unversioned = Catalogue.load()
    assert unversioned.model("noop:1") is unversioned["noop"]
    assert unversioned.matching("noop") == (unversioned["noop"],)
    assert unversioned["noop"].job_percent == 100
    for name in ("small", "small:2"):
        assert join_name(*split_name(name)) == name


def test_version_1_gets_all_jobs_by_default(tmp_path: Path) -> None:
    text = MODEL.replace('versions = {"1" = 95, "2" = 5}\n', "")
    assert dict(load(tmp_path, text)["small:2"].versions) == {"1": 100, "2": 0, "10": 0}


def test_printed_versions_form_a_valid_catalogue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = load(tmp_path, MODEL)
    assert main(["entry", "small", str(tmp_path / "models.toml")]) == 0
    printed = capsys.readouterr().out
    assert load(tmp_path, printed).values()
    again = load(tmp_path, printed)
    assert [again[name] for name in again] == [catalogue[name] for name in catalogue]
    assert main(["entry", "small:2", str(tmp_path / "models.toml")]) == 0
    assert capsys.readouterr().out == f"{format_entry(catalogue['small:2'])}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"2" = 5}', '"2" = 6}', "small.versions: the percentages add up to 101, not to 100"),
        ('"2" = 5}', '"3" = 5}', "version 3 does not exist"),
        ('"2" = 5}', '"2" = "5"}', "small.versions: expected a table with the percentage"),
        ('fallback = "1"', 'fallback = "4"', "version 4 does not exist"),
        ('[small."10"]', '[small."1"]', "version 1 is the table [small] itself"),
        ('[small."10"]', '[small."010"]', "small.010: this key does not exist"),
        (
            "max_batch_size = 2",
            "max_pixels = 2",
            "all versions of a model must have the same max_pixels",
        ),
        (
            "max_batch_size = 2",
            'inputs.mask = {media_types = ["image/png"]}',
            "all versions of a model must have the same inputs",
        ),
        (
            "max_batch_size = 2",
            'results.mask = {media_type = "image/png"}',
            "all versions of a model must have the same results",
        ),
        ("max_batch_size = 2", 'queue = "small"', "models use the queue small"),
        ('[small."10"]', "[small-v2]", "models use the queue small-v2"),
        ("[small]", '["small:2"]', "small:2: the name of a model may have only lower-case letters"),
    ],
)
def test_invalid_versions_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = MODEL.replace(old, new)
    if new == "[small-v2]":
        text += 'description = "Another."\nmedia_types = ["application/json"]\n'
    with pytest.raises(CatalogueError) as refused:
        load(tmp_path, text)
    assert message in str(refused.value)


def test_deployment_name_of_a_version_is_taken(tmp_path: Path) -> None:
    other = """
[small-v2]
queue = "other"
implementation = "models.other"
description = "Another model."
media_types = ["application/json"]
"""
    with pytest.raises(
        CatalogueError, match="small-v2: in a deployment, a version of another model"
    ):
        load(tmp_path, MODEL + other)


def test_fallback_needs_several_versions(tmp_path: Path) -> None:
    text = MODEL.partition("[small.")[0].replace('"1" = 95, "2" = 5', '"1" = 100')
    with pytest.raises(CatalogueError, match="the model has only one version"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ("small,small:2", None),
        ("small:1,small:2,small:10", None),
        ("small", "version 2 of small gets 5 % of the jobs, but no worker serves it"),
        ("small:2", "version 1 of small gets 95 % of the jobs, but no worker serves it"),
        ("small:10", "version 1 of small gets 95 % of the jobs, but no worker serves it"),
        ("other", None),
        ("smal", "there is no model named 'smal'; did you mean small"),
        ("", None),
    ],
)
def test_each_version_with_jobs_needs_a_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], served: str, message: str | None
) -> None:
    other = MODEL.partition("[small.")[0].replace("[small]", "[other]")
    other = other.replace('versions = {"1" = 95, "2" = 5}\nfallback = "1"', "")
    load(tmp_path, MODEL.replace('fallback = "1"\n', "") + other)
    code = main(["queues", "--served", served, str(tmp_path / "models.toml")])
    printed = capsys.readouterr()
    assert (code, message or "") == (2 if message else 0, message or printed.err)
    assert (message or "") in printed.err


def test_worker_of_the_fallback_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, MODEL)
    path = str(tmp_path / "models.toml")
    assert main(["queues", "--served", "small", path]) == 0
    assert main(["queues", "--served", "small:2", path]) == 2
    assert "version 1 of small gets 95 %" in capsys.readouterr().err


def test_documented_example_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/models.md").read_text(encoding="utf-8")
    example = page.partition("## Versions")[2].partition("```toml\n")[2].partition("```")[0]
    catalogue = load(tmp_path, example)
    assert list(catalogue) == ["colours", "colours:2"]
    assert dict(catalogue["colours:2"].options) == {"palette": 64}
    assert (catalogue["colours"].job_percent, catalogue["colours"].fallback) == (95, "1")


def test_version_with_fallback_keeps_a_worker(tmp_path: Path) -> None:
    counts = {name: model.min_workers for name, model in load(tmp_path, MODEL).items()}
    assert counts == {"small": 0, "small:2": 1, "small:10": 0}
    warm = 'warm = ["Mon-Fri 08:00-18:00 UTC"]\n'
    catalogue = load(tmp_path, MODEL.replace('fallback = "1"\n', f'fallback = "1"\n{warm}'))
    assert [model.warm_workers for model in catalogue.values()] == [1, 2, 1]
    more = load(tmp_path, MODEL.replace("max_batch_size = 2", "min_workers = 3"))
    assert more["small:2"].min_workers == 3
