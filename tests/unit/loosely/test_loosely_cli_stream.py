"""Test `loosely submit --stream`."""

import json
from typing import Any

import pytest

from loosely import JobEvent, Retry
from loosely.cli.output import SpinnerText
from loosely.cli.streams import StreamView, chunk_text
from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    event_response,
    job_document,
    json_response,
    problem_response,
)

ACCEPTED = json_response(202, job_document("queued"))
PARIS, IN_FRANCE = ("chunk", "1-1", "Paris"), ("chunk", "1-2", " in France")
AGAIN, BERLIN = ("attempt", "2-0", {"attempt": 2}), ("chunk", "2-1", "Berlin")
ENDED = ("end", None, job_document("succeeded", result="Paris in France"))


def test_text_appears_on_standard_output(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [ACCEPTED, event_response(PARIS, IN_FRANCE, ENDED)]
    done = submit("--stream")
    assert done.stdout == "Paris in France\n"
    assert "2 chunks, first after" in done.stderr
    assert gateway.requests[0].headers["prefer"] == "respond-async, stream"


def test_json_prints_a_line_for_each_event(submit: Run, gateway: ScriptedGateway) -> None:
    progress = ("progress", "1-2", {"fraction": 0.5, "message": None})
    gateway.responses = [ACCEPTED, event_response(PARIS, progress, ENDED)]
    lines = [json.loads(line) for line in submit("--stream", "--json").stdout.splitlines()]
    assert lines == [
        {"id": "1-1", "event": "chunk", "data": "Paris"},
        {"id": "1-2", "event": "progress", "data": {"fraction": 0.5, "message": None}},
        ENDED[2],
    ]


def test_another_attempt_is_told(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [ACCEPTED, event_response(PARIS, AGAIN, BERLIN, ENDED)]
    done = submit("--stream")
    assert done.stdout == "Paris\nBerlin\n"
    assert "the job runs again: the text above does not count" in done.stderr


def test_missing_chunks_are_told(submit: Run, gateway: ScriptedGateway) -> None:
    lost = ("stream_lost", None, {"message": "lost"})
    gateway.responses = [ACCEPTED, event_response(PARIS, lost, ENDED)]
    assert "some chunks are missing" in submit("--stream").stderr


def test_result_is_shown_without_chunks(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [ACCEPTED, event_response(("end", None, SUCCEEDED))]
    assert "Egyptian cat" in submit("--stream").stdout


def test_failed_job_exits_with_1(submit: Run, gateway: ScriptedGateway) -> None:
    failed = job_document("failed", error={"code": "inference-failed", "message": "no memory"})
    gateway.responses = [ACCEPTED, event_response(PARIS, ("end", None, failed))]
    done = submit("--stream", exit_code=1)
    assert "Paris\n" in done.stdout
    assert "no memory" in done.stdout


def test_lost_gateway_leaves_the_id(
    submit: Run, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loosely.cli.jobs.FOLLOWING_RETRY", Retry(total_seconds=0))
    gateway.responses = [ACCEPTED, problem_response(503, "unavailable", "no")]
    assert f"loosely status {JOB_ID}" in submit("--stream", exit_code=1).stderr


def test_detach_and_stream_exclude(submit: Run) -> None:
    assert "--stream" in submit("--stream", "--detach", exit_code=2).stderr


def test_summary_has_the_rate() -> None:
    times = iter([10.0, 10.5, 10.5, 11.5])
    view = StreamView(SpinnerText("", 0), as_json=True, clock=lambda: next(times))
    for number in range(3):
        view.show(JobEvent("chunk", "a", f"1-{number + 1}"))
    assert view.summary() == " 3 chunks, first after 500.0 ms, 2.0 a second"


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ("a", "a"),
        ({"choices": [{"delta": {"content": "a"}}]}, "a"),
        ({"choices": [{"text": "a"}]}, "a"),
        ({"type": "response.output_text.delta", "delta": "a"}, "a"),
        ({"object": "chat.completion.chunk", "choices": []}, ""),
        ("data:image/png;base64,AAAA", "data:image/png;base64, …\n"),
        ([1, "ä"], '[1, "ä"]\n'),
    ],
)
def test_text_of_a_chunk(chunk: Any, text: str) -> None:
    assert chunk_text(chunk) == text
