import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.loosely.command_line import Run
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
RunLetters = Callable[..., tuple[int, str]]
PATH = f"/v1/admin/dead-letters/classifier/{JOB_ID}"


@pytest.fixture
def run(loosely: Run) -> RunLetters:
    """Return a function that runs `loosely dead-letters` and returns its exit code and output."""

    def run_command(*arguments: str) -> tuple[int, str]:
        done = loosely("dead-letters", *arguments)
        return done.exit_code, done.output

    return run_command


def test_list_prints_all_pages(run: RunLetters, gateway: ScriptedGateway) -> None:
    pages = [([LETTER], "classifier/1"), ([{**LETTER, "redriven_as": "other"}], None)]
    gateway.responses = [
        json_response(200, {"dead_letters": letters, "next_cursor": cursor})
        for letters, cursor in pages
    ]
    code, output = run("list", "--model", "classifier")
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


def test_show_prints_dead_letter(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, LETTER), json_response(200, LETTER)]
    code, output = run("show", "classifier", JOB_ID)
    assert code == 0
    assert "MaxDeliveryCountExceeded" in output
    assert "inline, image/png, 7 bytes" in output
    code, output = run("show", "classifier", JOB_ID, "--json")
    assert json.loads(output) == LETTER


def test_show_prints_named_inputs(run: RunLetters, gateway: ScriptedGateway) -> None:
    mask = {"kind": "blob", "media_type": "image/webp", "size_bytes": 9}
    gateway.responses = [json_response(200, {**LETTER, "inputs": {"mask": mask}})]
    code, output = run("show", "classifier", JOB_ID)
    assert code == 0
    assert [line.split() for line in output.splitlines()[-2:]] == [
        ["input", "inline,", "image/png,", "7", "bytes"],
        ["input", "mask", "blob,", "image/webp,", "9", "bytes"],
    ]


def test_repeated_redrive_reports_same_job(run: RunLetters, gateway: ScriptedGateway) -> None:
    sent = {"job_id": "new", "is_new_job": True, "is_repeat": False, "links": {}}
    gateway.responses = [json_response(202, sent), json_response(200, {**sent, "is_repeat": True})]
    assert run("redrive", "classifier", JOB_ID) == (
        0,
        "sent again as the new job new\n",
    )
    assert run("redrive", "classifier", JOB_ID) == (
        0,
        "was already sent again as the new job new\n",
    )
    assert [(request.method, request.target) for request in gateway.requests] == [
        ("POST", f"{PATH}/redrive")
    ] * 2


def test_purge_deletes_one_or_all(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        ScriptedResponse(204, b""),
        json_response(200, {"deleted": 500, "is_complete": False}),
        json_response(200, {"deleted": 7, "is_complete": True}),
    ]
    assert run("purge", "classifier", JOB_ID) == (0, "deleted: 1\n")
    assert run("purge", "classifier", "--all") == (0, "deleted: 507\n")
    assert run("purge", "classifier")[0] == 2
    assert run("purge", "classifier", JOB_ID, "--all")[0] == 2


def counted(count: int, rest: int, cursor: str | None = None) -> ScriptedResponse:
    return json_response(
        200, {"count": count, "not_redriven": rest, "examined": count, "next_cursor": cursor}
    )


def changed(
    action: str, done: int, cursor: str | None = None, *refused: dict[str, str]
) -> ScriptedResponse:
    letters = [
        {"model": "noop", "id": f"l{number}", "job_id": f"j{number}" if action != "purge" else None}
        for number in range(done)
    ]
    return json_response(
        200, {"action": action, "done": letters, "refused": refused, "next_cursor": cursor}
    )


def sent(gateway: ScriptedGateway) -> list[Any]:
    """Return the decoded JSON bodies of the POST requests that the gateway has received."""
    return [json.loads(each.body) for each in gateway.requests if each.method == "POST"]


FILTER = [
    *("--model", "noop", "--reason", "MaxDeliveryCountExceeded"),
    *("--after", "2026-03-01T12:00:00Z", "--before", "2026-03-01T13:00:00Z"),
]
MEMBERS = {
    "model": "noop",
    "reason": "MaxDeliveryCountExceeded",
    "dead_lettered_after": "2026-03-01T12:00:00+00:00",
    "dead_lettered_before": "2026-03-01T13:00:00+00:00",
}


def test_count_adds_all_responses(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(500, 480, "noop/5"), counted(12, 12)]
    assert run("count", *FILTER) == (
        0,
        "dead letters: 512, not redriven: 492\n",
    )
    first, second = [urlsplit(request.target) for request in gateway.requests]
    assert first.path == "/v1/admin/dead-letters/count"
    expected = {name: [value] for name, value in MEMBERS.items()}
    assert parse_qs(first.query) == expected
    assert parse_qs(second.query) == {**expected, "cursor": ["noop/5"]}


def test_redrive_all_sends_confirmed_count(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(3, 2), changed("redrive", 2)]
    done = loosely("dead-letters", "redrive-all", *FILTER, input="y\n")
    assert done.exit_code == 0, done.output
    assert "redrive 2 dead letters?" in done.stderr
    # The runner repeats the input on standard output.
    assert done.stdout.endswith("\nnoop  l0  as  j0\nnoop  l1  as  j1\nredriven: 2\n")
    assert sent(gateway) == [{"action": "redrive", "count": 2, "filter": MEMBERS, "cursor": None}]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_nothing_changes_without_confirmation(
    loosely: Run, gateway: ScriptedGateway, answer: str
) -> None:
    for command in ("redrive-all", "purge-all"):
        gateway.responses = [counted(3, 3)]
        done = loosely("dead-letters", command, input=answer)
        assert done.exit_code == 1
    assert sent(gateway) == []


def test_wrong_count_option_changes_nothing(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(3, 0), changed("purge", 3)]
    assert run("purge-all", "--count", "3") == (0, "deleted: 3\n")
    gateway.responses = [counted(4, 0)]
    code, output = run("purge-all", "--count", "3")
    assert (code, output) == (1, "count-changed: 4 dead letters match now, not 3\n")
    assert [each["count"] for each in sent(gateway)] == [3]


def test_purge_all_deletes_at_most_count(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        counted(500, 0, "noop/5"),
        counted(20, 0),
        changed("purge", 400, "noop/4"),  # stopped within the first part
        counted(120, 0),
        changed("purge", 120),
    ]
    assert run("purge-all", "--count", "520") == (0, "deleted: 520\n")
    orders = [(each["count"], each["cursor"]) for each in sent(gateway)]
    assert orders == [(500, None), (120, "noop/4")]
    # If letters came meanwhile, the order has the accepted number, which the gateway refuses.
    gateway.responses = [
        counted(20, 0),
        changed("purge", 10, "noop/4"),
        counted(13, 0),
        problem_response(
            409,
            "count-changed",
            "count: 13 dead letters match now, but the request expects 10; count them again",
        ),
    ]
    code, output = run("purge-all", "--count", "20")
    assert (code, sent(gateway)[-1]["count"]) == (1, 10)
    assert "count-changed" in output


def test_refused_letter_exits_with_1(run: RunLetters, gateway: ScriptedGateway) -> None:
    refused = {"model": "noop", "id": "x", "detail": "the job no longer exists"}
    gateway.responses = [counted(2, 2), changed("redrive", 1, None, refused)]
    code, output = run("redrive-all", "--count", "2")
    assert code == 1
    assert "noop  x  the job no longer exists" in output
    assert "redriven: 1" in output


def test_changed_count_is_reported(run: RunLetters, gateway: ScriptedGateway) -> None:
    refusal = problem_response(
        409,
        "count-changed",
        "count: 5 dead letters match now, but the request expects 4; count them again",
    )
    gateway.responses = [counted(4, 4), refusal]
    code, output = run("redrive-all", "--count", "4")
    assert code == 1
    assert (
        "count-changed: count: 5 dead letters match now, but the request expects 4; count them "
        "again" in output
    )


def test_refused_redrive_prints_reason(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [problem_response(409, "not-redrivable", "the job is no longer kept")]
    code, output = run("redrive", "classifier", JOB_ID)
    assert code == 1
    assert "not-redrivable: the job is no longer kept" in output


def test_response_without_list_exits_with_76(run: RunLetters, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, {"dead_letters": 1})]
    assert run("list")[0] == 76
