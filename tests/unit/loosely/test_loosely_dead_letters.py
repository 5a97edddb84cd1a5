import json
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
PATH = f"/v1/admin/dead-letters/classifier/{JOB_ID}"


def test_list_prints_all_pages(loosely: Run, gateway: ScriptedGateway) -> None:
    pages = [([LETTER], "classifier/1"), ([{**LETTER, "redriven_as": "other"}], None)]
    gateway.responses = [
        json_response(200, {"dead_letters": letters, "next_cursor": cursor})
        for letters, cursor in pages
    ]
    done = loosely("dead-letters", "list", "--model", "classifier")
    first, second = done.stdout.splitlines()
    shown = ("model", "id", "dead_lettered_at", "reason")
    assert first.split() == [LETTER[name] for name in shown]
    assert second.rstrip().endswith("redriven as other")
    assert "cursor=classifier%2F1" in gateway.requests[1].target
    assert "model=classifier" in gateway.requests[1].target


def test_show_prints_dead_letter(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, LETTER)]
    done = loosely("dead-letters", "show", "classifier", JOB_ID)
    assert "MaxDeliveryCountExceeded" in done.stdout
    assert "inline, image/png, 7 bytes" in done.stdout
    done = loosely("dead-letters", "show", "classifier", JOB_ID, "--json")
    assert json.loads(done.stdout) == LETTER


def test_show_prints_named_inputs(loosely: Run, gateway: ScriptedGateway) -> None:
    mask = {"kind": "blob", "media_type": "image/webp", "size_bytes": 9}
    gateway.responses = [json_response(200, {**LETTER, "inputs": {"mask": mask}})]
    done = loosely("dead-letters", "show", "classifier", JOB_ID)
    assert [line.split() for line in done.stdout.splitlines()[-2:]] == [
        ["input", "inline,", "image/png,", "7", "bytes"],
        ["input", "mask", "blob,", "image/webp,", "9", "bytes"],
    ]


def test_repeated_redrive_reports_same_job(loosely: Run, gateway: ScriptedGateway) -> None:
    sent = {"job_id": "new", "is_new_job": True, "is_repeat": False, "links": {}}
    gateway.responses = [json_response(202, sent), json_response(200, {**sent, "is_repeat": True})]
    for printed in ("sent again", "was already sent again"):
        done = loosely("dead-letters", "redrive", "classifier", JOB_ID)
        assert done.output == f"{printed} as the new job new\n"
    assert [(request.method, request.target) for request in gateway.requests] == [
        ("POST", f"{PATH}/redrive")
    ] * 2


def test_purge_deletes_one_or_all(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        ScriptedResponse(204, b""),
        json_response(200, {"deleted": 500, "is_complete": False}),
        json_response(200, {"deleted": 7, "is_complete": True}),
    ]
    assert loosely("dead-letters", "purge", "classifier", JOB_ID).output == "deleted: 1\n"
    assert loosely("dead-letters", "purge", "classifier", "--all").output == "deleted: 507\n"
    loosely("dead-letters", "purge", "classifier", exit_code=2)
    loosely("dead-letters", "purge", "classifier", JOB_ID, "--all", exit_code=2)


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


def test_count_adds_all_responses(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(500, 480, "noop/5"), counted(12, 12)]
    done = loosely("dead-letters", "count", *FILTER)
    assert done.output == "dead letters: 512, not redriven: 492\n"
    first, second = [urlsplit(request.target) for request in gateway.requests]
    assert first.path == "/v1/admin/dead-letters/count"
    expected = {name: [value] for name, value in MEMBERS.items()}
    assert parse_qs(first.query) == expected
    assert parse_qs(second.query) == {**expected, "cursor": ["noop/5"]}


def test_redrive_all_sends_confirmed_count(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(3, 2), changed("redrive", 2)]
    done = loosely("dead-letters", "redrive-all", *FILTER, input="y\n")
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
        loosely("dead-letters", command, input=answer, exit_code=1)
    assert sent(gateway) == []


def test_wrong_count_option_changes_nothing(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [counted(3, 0), changed("purge", 3)]
    assert loosely("dead-letters", "purge-all", "--count", "3").output == "deleted: 3\n"
    gateway.responses = [counted(4, 0)]
    done = loosely("dead-letters", "purge-all", "--count", "3", exit_code=1)
    assert done.output == "count-changed: 4 dead letters match now, not 3\n"
    assert [each["count"] for each in sent(gateway)] == [3]


def test_purge_all_deletes_at_most_count(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        counted(500, 0, "noop/5"),
        counted(20, 0),
        changed("purge", 400, "noop/4"),  # stopped within the first part
        counted(120, 0),
        changed("purge", 120),
    ]
    assert loosely("dead-letters", "purge-all", "--count", "520").output == "deleted: 520\n"
    orders = [(each["count"], each["cursor"]) for each in sent(gateway)]
    assert orders == [(500, None), (120, "noop/4")]
    # If letters came meanwhile, the order has the accepted number, which the gateway refuses.
    detail = "count: 13 dead letters match now, but the request expects 10; count them again"
    refusal = problem_response(409, "count-changed", detail)
    gateway.responses = [counted(20, 0), changed("purge", 10, "noop/4"), counted(13, 0), refusal]
    done = loosely("dead-letters", "purge-all", "--count", "20", exit_code=1)
    assert sent(gateway)[-1]["count"] == 10
    assert f"count-changed: {detail}" in done.output


def test_refused_letter_exits_with_1(loosely: Run, gateway: ScriptedGateway) -> None:
    refused = {"model": "noop", "id": "x", "detail": "the job no longer exists"}
    gateway.responses = [counted(2, 2), changed("redrive", 1, None, refused)]
    done = loosely("dead-letters", "redrive-all", "--count", "2", exit_code=1)
    assert "noop  x  the job no longer exists" in done.stderr
    assert "redriven: 1" in done.stdout


def test_refused_redrive_prints_reason(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [problem_response(409, "not-redrivable", "the job is no longer kept")]
    done = loosely("dead-letters", "redrive", "classifier", JOB_ID, exit_code=1)
    assert "not-redrivable: the job is no longer kept" in done.stderr


def test_response_without_list_exits_with_76(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, {"dead_letters": 1})]
    loosely("dead-letters", "list", exit_code=76)
