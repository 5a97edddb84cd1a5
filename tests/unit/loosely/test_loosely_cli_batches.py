"""Test `loosely batch`: what it sends, prints and writes, and how it goes on."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_batches import BATCH_ID, RESTART, ScriptedBatch, batch_document
from tests.unit.loosely.scripted_gateway import (
    ReceivedRequest,
    ScriptedGateway,
    ScriptedResponse,
    json_response,
    problem_response,
)


@pytest.fixture
def scripted(gateway: ScriptedGateway) -> ScriptedBatch:
    gateway.answer = found = ScriptedBatch(gateway.url)
    return found


@pytest.fixture
def batch(loosely: Run, scripted: ScriptedBatch) -> Run:
    return partial(loosely, "batch")


def items(gateway: ScriptedGateway) -> list[Any]:
    [found] = [json.loads(each.body) for each in gateway.requests if each.target == "/v1/batches"]
    return found["items"]  # type: ignore[no-any-return] # it is JSON


class TestSubmit:
    def test_prints_only_id(self, batch: Run, scripted: ScriptedBatch, tmp_path: Path) -> None:
        (tmp_path / "lines.jsonl").write_text("{}\n")
        done = batch("submit", "lines.jsonl", "-m", "noop")
        assert (done.stdout, done.stderr) == (f"{BATCH_ID}\n", "")
        assert scripted.stored == b"{}\n"

    def test_folder_becomes_lines(
        self, batch: Run, gateway: ScriptedGateway, tmp_path: Path
    ) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").write_text("a")
        batch("submit", "in", "-m", "noop", "--param", "top=3", "--label", "l")
        expected = {"base64": "YQ==", "media_type": "text/plain"}
        assert items(gateway) == [{"custom_id": "a.txt", "input": expected}]

    def test_standard_input_has_lines(self, batch: Run, gateway: ScriptedGateway) -> None:
        batch("submit", "-", "-m", "noop", input='{"custom_id": "a"}\n\n{"custom_id": "b"}\n')
        assert items(gateway) == [{"custom_id": "a"}, {"custom_id": "b"}]

    def test_line_that_is_no_json_is_refused(self, batch: Run, gateway: ScriptedGateway) -> None:
        done = batch("submit", "-", "-m", "noop", input="{}\n{", exit_code=2)
        assert "line 2 is not JSON" in done.stderr
        assert gateway.requests == []

    def test_refused_lines_are_named(self, batch: Run, gateway: ScriptedGateway) -> None:
        errors = [{"line": 1, "custom_id": "a.jpg", "code": "invalid-input", "message": "no"}]
        gateway.answer = lambda _: problem_response(422, "invalid-batch", "line 1", errors=errors)
        done = batch("submit", "-", "-m", "noop", input="{}\n", exit_code=1)
        first, last = done.stderr.splitlines()
        assert first == "line 1 (a.jpg): invalid-input: no"
        assert last.startswith("invalid-batch: line 1; correct the lines")

    def test_out_has_results_at_end(
        self, batch: Run, scripted: ScriptedBatch, tmp_path: Path
    ) -> None:
        done = batch("submit", "-", "-m", "noop", "--out", "results.jsonl", input="{}\n")
        assert (tmp_path / "results.jsonl").read_bytes() == scripted.output
        assert "4 in all, 4 succeeded" in done.stdout
        assert done.stderr == f"batch {BATCH_ID}\n"


class TestWait:
    def test_survives_restart(self, batch: Run, gateway: ScriptedGateway) -> None:
        gateway.answer = ScriptedBatch(gateway.url, failures=RESTART)
        assert "succeeded" in batch("show", BATCH_ID, "--wait").stdout

    def test_failed_lines_exit_with_1(self, batch: Run, gateway: ScriptedGateway) -> None:
        counts = {"total": 4, "succeeded": 3, "failed": 1}
        shown = batch_document("succeeded", counts=counts, error_codes={"inference-failed": 1})
        gateway.answer = lambda _: json_response(200, shown)
        done = batch("show", BATCH_ID, "--wait", exit_code=1)
        assert "4 in all, 3 succeeded, 1 failed" in done.stdout
        assert "1 with inference-failed" in done.stdout
        assert done.stderr == (f"see what failed with: loosely batch results {BATCH_ID} --errors\n")

    def test_refused_lines_are_shown(self, batch: Run, gateway: ScriptedGateway) -> None:
        errors = [{"line": 2, "custom_id": "a", "code": "duplicate-custom-id", "message": "twice"}]
        shown = batch_document("failed", errors=errors)
        gateway.answer = lambda _: json_response(200, shown)
        done = batch("show", BATCH_ID, "--wait", exit_code=1)
        assert "line 2 (a): duplicate-custom-id: twice" in done.stdout

    @pytest.mark.parametrize(
        ("command", "advice"),
        [
            (("show", BATCH_ID, "--wait"), f"show {BATCH_ID} --wait"),
            (("results", BATCH_ID, "--out", "a"), f"results {BATCH_ID} --out a"),
            (
                ("results", BATCH_ID, "--errors", "--out", "a"),
                f"results {BATCH_ID} --errors --out a",
            ),
        ],
    )
    def test_interrupt_tells_how_to_go_on(
        self, batch: Run, gateway: ScriptedGateway, command: tuple[str, ...], advice: str
    ) -> None:
        def interrupt(_: ReceivedRequest) -> ScriptedResponse:
            os.kill(os.getpid(), signal.SIGINT)
            return json_response(200, batch_document("running"))

        gateway.answer = interrupt
        # A program that was started in the background ignores the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            done = batch(*command, exit_code=130)
        finally:
            signal.signal(signal.SIGINT, before)
        assert f"the batch continues; go on with: loosely batch {advice}\n" in done.stderr


class TestResults:
    def test_are_printed_until_now(self, batch: Run, scripted: ScriptedBatch) -> None:
        assert batch("results", BATCH_ID).stdout.encode() == scripted.output

    def test_file_is_continued(self, batch: Run, scripted: ScriptedBatch, tmp_path: Path) -> None:
        scripted.ended = 2
        (tmp_path / "a").write_bytes(scripted.output[:70])
        batch("results", BATCH_ID, "--out", "a")
        assert (tmp_path / "a").read_bytes() == scripted.output

    def test_file_of_other_content_is_refused(self, batch: Run, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("mine")
        assert "content that is not" in batch("results", BATCH_ID, "--out", "a", exit_code=2).stderr


def test_ls_shows_a_line_for_each(batch: Run) -> None:
    shown = batch("ls", "--label", "b*").stdout.splitlines()
    assert shown[0] == f"noop  running  4 in all  {BATCH_ID}  b"
    assert shown[1].startswith("noop  succeeded  4 in all, 4 succeeded")


def test_cancel_shows_batch(batch: Run) -> None:
    assert "cancelling" in batch("cancel", BATCH_ID).stdout
