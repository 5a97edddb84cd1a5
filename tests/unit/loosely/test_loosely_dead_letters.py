import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loosely.cli import app
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    ScriptedGateway,
    ScriptedResponse,
    json_response,
    problem_response,
)

LETTER = {
    "id": JOB_ID,
    "model": "classifier",
    "job_id": JOB_ID,
    "reason": "MaxDeliveryCountExceeded",
    "delivery_count": 3,
    "dead_lettered_at": "2026-01-02T03:04:05Z",
    "input": {"kind": "inline", "media_type": "image/png", "size_bytes": 7},
    "redriven_as": None,
}
PATH = f"/v1/admin/dead-letters/classifier/{JOB_ID}"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    for name in ("LOOSELY_API_KEY", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


def run(runner: CliRunner, gateway: ScriptedGateway, *arguments: str) -> tuple[int, str]:
    done = runner.invoke(app, ["dead-letters", *arguments], env={"LOOSELY_URL": gateway.url})
    return done.exit_code, done.output


def test_the_dead_letters_list_command_prints_the_dead_letters_of_all_pages(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    pages = [([LETTER], "classifier/1"), ([{**LETTER, "redriven_as": "other"}], None)]
    gateway.responses = [
        json_response(200, {"dead_letters": letters, "next_cursor": cursor})
        for letters, cursor in pages
    ]
    code, output = run(runner, gateway, "list", "--model", "classifier")
    assert code == 0
    first, second = output.splitlines()
    assert first.split() == [
        "classifier",
        JOB_ID,
        "2026-01-02T03:04:05Z",
        "MaxDeliveryCountExceeded",
    ]
    assert second.rstrip().endswith("redriven as other")
    assert "cursor=classifier%2F1" in gateway.requests[1].target
    assert "model=classifier" in gateway.requests[1].target


def test_the_dead_letters_show_command_prints_a_dead_letter(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    gateway.responses = [json_response(200, LETTER), json_response(200, LETTER)]
    code, output = run(runner, gateway, "show", "classifier", JOB_ID)
    assert code == 0
    assert "MaxDeliveryCountExceeded" in output
    assert "inline, image/png, 7 bytes" in output
    code, output = run(runner, gateway, "show", "classifier", JOB_ID, "--json")
    assert json.loads(output) == LETTER


def test_a_repeated_redrive_command_reports_the_same_new_job(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    sent = {"job_id": "new", "is_new_job": True, "is_repeat": False, "links": {}}
    gateway.responses = [json_response(202, sent), json_response(200, {**sent, "is_repeat": True})]
    assert run(runner, gateway, "redrive", "classifier", JOB_ID) == (
        0,
        "sent again as the new job new\n",
    )
    assert run(runner, gateway, "redrive", "classifier", JOB_ID) == (
        0,
        "was already sent again as the new job new\n",
    )
    assert [(request.method, request.target) for request in gateway.requests] == [
        ("POST", f"{PATH}/redrive")
    ] * 2


def test_the_dead_letters_purge_command_deletes_one_or_all_dead_letters(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    gateway.responses = [
        ScriptedResponse(204, b""),
        json_response(200, {"deleted": 500, "is_complete": False}),
        json_response(200, {"deleted": 7, "is_complete": True}),
    ]
    assert run(runner, gateway, "purge", "classifier", JOB_ID) == (0, "deleted: 1\n")
    assert run(runner, gateway, "purge", "classifier", "--all") == (0, "deleted: 507\n")
    assert run(runner, gateway, "purge", "classifier")[0] == 2
    assert run(runner, gateway, "purge", "classifier", JOB_ID, "--all")[0] == 2


def test_a_redrive_command_that_the_gateway_refuses_prints_the_reason(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    gateway.responses = [problem_response(409, "not-redrivable", "the job is no longer kept")]
    code, output = run(runner, gateway, "redrive", "classifier", JOB_ID)
    assert code == 1
    assert "not-redrivable: the job is no longer kept" in output


def test_a_dead_letters_command_exits_with_status_76_if_the_response_contains_no_list(
    runner: CliRunner, gateway: ScriptedGateway
) -> None:
    gateway.responses = [json_response(200, {"dead_letters": 1})]
    assert run(runner, gateway, "list")[0] == 76
