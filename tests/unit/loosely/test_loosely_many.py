"""Test `loosely submit` with several inputs: names, results, what is skipped, exit codes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loosely.client.settings import DEFAULT_URL
from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    ReceivedRequest,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)


def echo(request: ReceivedRequest) -> ScriptedResponse:
    """Return the input as the result, and fail on the input `bad`."""
    if request.body == b"bad":
        return problem_response(422, "invalid-input", "it is bad", stage="accept")
    return json_response(200, job_document("succeeded", result=request.body.decode()))


def lines(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line for line in found}


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def many(loosely: Run, gateway: ScriptedGateway, tmp_path: Path) -> Run:
    """Return a function that runs `loosely submit` in a folder with the folder `in`."""
    gateway.answer = echo
    for name in ("a.txt", "b/a.txt", "b/.hidden"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return partial(loosely, "submit", "--model", "noop")


class TestFolder:
    def test_each_input_gets_a_file(self, many: Run, tmp_path: Path) -> None:
        done = many("in", "--out", "out")
        assert contents(tmp_path / "out") == {"a.txt.txt": "a.txt", "b/a.txt.txt": "b/a.txt"}
        assert (done.stdout, done.stderr) == ("", "2 succeeded, 0 failed, 0 skipped\n")

    def test_existing_result_is_kept(
        self, many: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.txt.json").write_text("old")
        done = many("in", "--out", "out")
        assert contents(tmp_path / "out") == {"a.txt.json": "old", "b/a.txt.txt": "b/a.txt"}
        assert [request.body for request in gateway.requests] == [b"b/a.txt"]
        assert done.stderr == "1 succeeded, 0 failed, 1 skipped\n"

    @pytest.mark.parametrize("out", ["in/out", "in/out.jsonl"])
    def test_results_are_no_inputs(self, many: Run, gateway: ScriptedGateway, out: str) -> None:
        for _ in range(2):
            many("in", "--out", out)
        assert len(gateway.requests) == 2

    def test_partly_written_result_is_not_there(self, many: Run, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".a.txt.txt.part").write_text("a.")
        many("in", "--out", "out")
        assert contents(tmp_path / "out")["a.txt.txt"] == "a.txt"

    def test_failed_input_is_told_and_tried_again(
        self, many: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        (tmp_path / "in" / "c.txt").write_text("bad")
        done = many("in", "--out", "out", exit_code=1)
        assert done.stderr.startswith("c.txt: invalid-input: it is bad; check that")
        assert done.stderr.endswith("2 succeeded, 1 failed, 0 skipped\n")
        (tmp_path / "in" / "c.txt").write_text("good")
        assert many("in", "--out", "out").stderr == "1 succeeded, 0 failed, 2 skipped\n"
        assert len(gateway.requests) == 4

    def test_named_and_binary_results_are_fetched(
        self, many: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        named = {"mask": {"media_type": "image/png", "link": "/"}}
        job = job_document("succeeded", results=named)

        def answer(request: ReceivedRequest) -> ScriptedResponse:
            if request.method == "POST":
                return json_response(200, job)
            kind = "image/png" if request.target.endswith("mask") else "audio/wav"
            return ScriptedResponse(200, kind.encode(), {"content-type": kind})

        gateway.answer = answer
        many("in/a.txt", "--out", "out")
        assert contents(tmp_path / "out") == {
            "in/a.txt.wav": "audio/wav",
            "in/a.txt.mask.png": "image/png",
        }


class TestLines:
    def test_each_result_is_a_line(self, many: Run, tmp_path: Path) -> None:
        (tmp_path / "in" / "c.txt").write_text("bad")
        many("in", "--out", "out.jsonl", exit_code=1)
        found = lines(tmp_path / "out.jsonl")
        assert found["a.txt"] == {
            "custom_id": "a.txt",
            "job": JOB_ID,
            "status": "succeeded",
            "result": "a.txt",
        }
        assert found["c.txt"]["error"] == {
            "code": "invalid-input",
            "message": "it is bad",
            "stage": "accept",
            "retryable": False,
        }

    def test_succeeded_lines_are_kept(
        self, many: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        old = '{"custom_id": "a.txt", "status": "succeeded", "result": "old"}\n'
        failed = '{"custom_id": "b/a.txt", "status": "failed"}\n'
        (tmp_path / "out.jsonl").write_text(f'{old}{failed}{{"custom_id": "c')
        many("in", "--out", "out.jsonl")
        found = lines(tmp_path / "out.jsonl")
        assert (found["a.txt"]["result"], found["b/a.txt"]["result"]) == ("old", "b/a.txt")
        assert [request.body for request in gateway.requests] == [b"b/a.txt"]

    @pytest.mark.parametrize("own", ['{"custom_id": "a", "input": {}}', "mine", "mine\n"])
    def test_other_file_is_kept(self, many: Run, tmp_path: Path, own: str) -> None:
        (tmp_path / "out.jsonl").write_text(own)
        assert "no results" in many("in", "--out", "out.jsonl", exit_code=2).stderr
        assert (tmp_path / "out.jsonl").read_text() == own
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.jsonl"]

    def test_go_to_standard_output_without_out(self, many: Run) -> None:
        found = [json.loads(line) for line in many("in/a.txt", "in/b/a.txt").stdout.splitlines()]
        assert {line["custom_id"] for line in found} == {"in/a.txt", "in/b/a.txt"}

    def test_standard_input_has_input_on_each_line(
        self, many: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        many("-", "--out", "out.jsonl", input="one\n\nthree\r\n")
        found = lines(tmp_path / "out.jsonl")
        assert {name: line["result"] for name, line in found.items()} == {
            "000001": "one",
            "000003": "three",
        }
        assert {each.headers["content-type"] for each in gateway.requests} == {"text/plain"}


class TestErrors:
    def test_gateway_that_is_away_ends_command(
        self, many: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOOSELY_URL", DEFAULT_URL.replace("7071", "1"))
        done = many("in", "--out", "out", exit_code=69)
        assert done.stderr.startswith("unreachable: ")
        assert done.stderr.endswith("\n0 succeeded, 0 failed, 0 skipped\n")

    def test_unwritable_results_end_command(self, many: Run, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "b").write_text("no folder")
        done = many("in", "--out", "out", "--concurrency", "1", exit_code=1)
        assert "cannot write the results" in done.stderr
        assert "the same command continues where this one stopped" in done.stderr

    def test_two_inputs_of_one_name_are_refused(self, many: Run, gateway: ScriptedGateway) -> None:
        assert "would have one name" in many("in", "in/b", exit_code=2).stderr
        assert gateway.requests == []

    @pytest.mark.parametrize("option", ["--detach", "--stream", "--idempotency-key=a"])
    def test_options_of_one_job_are_refused(self, many: Run, option: str) -> None:
        assert "cannot be used with several inputs" in many("in", option, exit_code=2).stderr

    def test_missing_file_is_refused(self, many: Run, gateway: ScriptedGateway) -> None:
        assert "No such file" in many("in/a.txt", "in/none", exit_code=2).stderr
        assert gateway.requests == []
