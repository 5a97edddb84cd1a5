"""Test how the client and the command line show and fetch the named results of a job."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loosely import Job, NotFound, Result, Retry
from loosely.cli.models import CheckOutput
from loosely.client.media import file_extension
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

ONCE = Retry(total_seconds=0)
LINK = f"/v1/jobs/{JOB_ID}/result"


def named(media_type: str, name: str, **members: Any) -> dict[str, Any]:
    return {"media_type": media_type, "link": f"{LINK}/{name}", **members}


RESULTS = {
    "mask": named("image/png", "mask"),
    "boxes": named("application/json", "boxes", json=[[1, 2]]),
    "points": named("application/json", "points"),
}
CUT = job_document("succeeded", result={"count": 2}, results=RESULTS)
PNG = ScriptedResponse(200, b"\x89PNG", {"content-type": "image/png"})


def test_small_json_results_have_values(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(200, CUT)]
    job = connect(gateway.url, retry=ONCE).get(JOB_ID)
    assert job.results == {"mask": None, "boxes": [[1, 2]], "points": None}
    assert job.result_media_types == {
        "mask": "image/png",
        "boxes": "application/json",
        "points": "application/json",
    }


@pytest.mark.parametrize("results", [None, [], "x", {"mask": 3}])
def test_malformed_results_are_none(results: object) -> None:
    document = {**job_document("succeeded"), "results": results}
    job = Job.from_document(document, b"")
    assert job is not None
    assert (job.results, job.result_media_types) == ({}, {})


def test_wait_fetches_only_large_json(gateway: ScriptedGateway, connect: Connect) -> None:
    large = {"location": "/x?rsct=application/json&sig=secret"}
    gateway.responses = [
        json_response(200, CUT),
        ScriptedResponse(303, b"", large),
        ScriptedResponse(200, b"[3]", {"content-type": "application/json"}),
    ]
    job = connect(gateway.url, retry=ONCE).wait(JOB_ID)
    assert job.results == {"mask": None, "boxes": [[1, 2]], "points": [3]}
    assert [each.target.partition("?")[0] for each in gateway.requests[1:]] == [
        f"{LINK}/points",
        "/x",
    ]


def test_named_result_is_returned(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [PNG]
    client = connect(gateway.url, retry=ONCE)
    assert client.result(JOB_ID, "mask") == Result(b"\x89PNG", "image/png")
    assert client.result(JOB_ID, "../x") == Result(b"\x89PNG", "image/png")
    assert [each.target for each in gateway.requests] == [f"{LINK}/mask", f"{LINK}/..%2Fx"]


def test_unknown_result_is_not_found(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        problem_response(404, "unknown-result", "the job has no named result 'crop'")
    ]
    with pytest.raises(NotFound, match="no named result 'crop'"):
        connect(gateway.url, retry=ONCE).result(JOB_ID, "crop")


def test_submit_shows_each_result(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, CUT)]
    done = submit()
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert '  "count": 2' in lines
    assert lines.index("mask: image/png") < lines.index("boxes:")
    assert json.loads("".join(lines[lines.index("boxes:") + 1 : -1])) == [[1, 2]]
    assert lines[-1] == "points: application/json"
    assert f"loosely result {JOB_ID} --save FOLDER" in done.stderr


def test_status_shows_each_result(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, {**CUT, "result": None})]
    done = loosely("status", JOB_ID)
    assert "mask: image/png" in done.stdout


@pytest.mark.parametrize("command", ["submit", "result"])
def test_save_writes_each_result(
    loosely: Run, gateway: ScriptedGateway, picture: str, tmp_path: Path, command: str
) -> None:
    results = {**RESULTS, "../evil": named("text/plain", "evil")}
    job = json_response(200, {**CUT, "results": results})
    first = json_response(200, {"count": 2})
    points = ScriptedResponse(200, b"[3]", {"content-type": "application/json"})
    start = [job, first] if command == "submit" else [first, job]
    gateway.responses = [*start, PNG, json_response(200, [[1, 2]]), points]
    words = ["submit", picture, "-m", "cutter"] if command == "submit" else ["result", JOB_ID]
    folder = tmp_path / "new" / "folder"
    done = loosely(*words, "--save", str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "result.json": b'{"count": 2}',
        "mask.png": b"\x89PNG",
        "boxes.json": b"[[1, 2]]",
        "points.json": b"[3]",
    }
    assert str(folder / "mask.png") in done.stderr
    assert "--save FOLDER" not in done.stderr
    assert not any("evil" in each.target for each in gateway.requests)


def test_save_replaces_only_result_files(
    loosely: Run, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text("an older result", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("other", encoding="utf-8")
    job = json_response(200, {**CUT, "results": {}})
    gateway.responses = [json_response(200, {"count": 2}), job]
    loosely("result", JOB_ID, "--save", str(tmp_path))
    assert (tmp_path / "result.json").read_bytes() == b'{"count": 2}'
    assert (tmp_path / "notes.txt").read_text("utf-8") == "other"


def test_save_reports_unwritable_folder(
    loosely: Run, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    gateway.responses = [json_response(200, {"count": 2}), json_response(200, CUT), PNG]
    (tmp_path / "file").write_text("", encoding="utf-8")
    target = str(tmp_path / "file" / "folder")
    done = loosely("result", JOB_ID, "--save", target, exit_code=1)
    assert done.stderr == f"cannot write to {target}: Not a directory\n"


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "{file}", "-m", "x", "--save", "out", "--detach"],
        ["result", JOB_ID, "--save", "out", "--name", "mask"],
        ["result", JOB_ID, "--save", "out", "--output", "x.png"],
    ],
)
def test_save_excludes_other_options(
    loosely: Run, gateway: ScriptedGateway, picture: str, words: list[str]
) -> None:
    given = [word.format(file=picture) for word in words]
    done = loosely(*given, exit_code=2)
    assert "cannot be used with" in done.stderr
    assert gateway.requests == []


def test_result_prints_or_writes_one(
    loosely: Run, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    gateway.responses = [PNG]
    target = tmp_path / "mask.png"
    assert loosely("result", JOB_ID, "--name", "mask", "-o", str(target)).stdout == ""
    assert target.read_bytes() == b"\x89PNG"
    assert gateway.requests[0].target == f"{LINK}/mask"


def test_check_shows_each_result() -> None:
    output = StringIO()
    CheckOutput(Console(file=output, width=200)).add(
        {
            "event": "result",
            "json": {"count": 2},
            "results": {
                "mask": {"media_type": "image/png", "size_bytes": 9},
                "boxes": {"media_type": "application/json", "json": [1]},
            },
        }
    )
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines == [
        *("{", '  "count": 2', "}"),
        "the result mask is image/png, 9 bytes",
        *("the result boxes:", "[", "  1", "]"),
    ]


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [
        ("image/png", ".png"),
        ("application/json; charset=utf-8", ".json"),
        ("application/geo+json", ".json"),
        ("text/csv", ".txt"),
        ("text/plain", ".txt"),
        ("x/../y", ".bin"),
        ("", ".bin"),
    ],
)
def test_extension_follows_media_type(media_type: str, extension: str) -> None:
    assert file_extension(media_type) == extension
