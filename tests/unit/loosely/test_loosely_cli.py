import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from typer.main import get_command

from loosely import GatewayUnreachable, Retry, __version__
from loosely.cli import app
from loosely.cli.errors import format_error
from loosely.cli.logs import LogView
from loosely.cli.output import echo_json
from loosely.client.errors import read_problem
from tests.unit.loosely.command_line import Run
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
    timeline_document,
)

ROOT = Path(__file__).parents[3]

TABLE = f"""\
classifier  succeeded  queued 4 ms, inference 21 ms, total 39 ms  {JOB_ID}
Egyptian cat  75.0%  ██████████████████
tiger cat     12.5%  ███
tabby          1.0%  ▎
"""


def test_submit_shows_labels_as_table(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    done = submit()
    assert "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n" == TABLE
    assert gateway.requests[0].headers["prefer"] == "respond-async"
    assert gateway.requests[0].headers["content-type"] == "image/jpeg"


def test_submit_polls_until_job_has_ended(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        json_response(202, job_document("queued"), retry_after="1"),
        json_response(200, job_document("running")),
        json_response(200, SUCCEEDED),
    ]
    options = ["--deadline", "9", "--priority", "low", "--label", "a b"]
    done = submit(*options)
    assert "Egyptian cat" in done.stdout
    assert [request.target for request in gateway.requests] == [
        "/v1/models/classifier/jobs?deadline_seconds=9&priority=low&label=a+b",
        f"/v1/jobs/{JOB_ID}",
        f"/v1/jobs/{JOB_ID}",
    ]


def test_submit_json_prints_job_unchanged(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [ScriptedResponse(200, json.dumps(SUCCEEDED, indent=3).encode())]
    done = submit("--json")
    assert done.stdout == json.dumps(SUCCEEDED, indent=3) + "\n"


def test_submit_detach_prints_only_job_id(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(202, job_document("queued"), retry_after="1")]
    done = submit("--detach")
    assert done.stdout == f"{JOB_ID}\n"
    assert gateway.requests[0].headers["prefer"] == "respond-async"


def test_lost_submit_is_repeated_with_its_key(
    submit: Run, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loosely.cli.connection.RETRY", Retry(total_seconds=0))
    gateway.responses = [HANG_UP, json_response(202, job_document("queued")), HANG_UP]
    gateway.responses += [json_response(200, SUCCEEDED)]
    submit()
    first, second = gateway.requests[:2]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


@pytest.mark.parametrize("accepts", [False, True])
def test_submit_says_how_to_find_job_again(
    submit: Run,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
    *,
    accepts: bool,
) -> None:
    for name in ("connection.RETRY", "jobs.FOLLOWING_RETRY"):
        monkeypatch.setattr(f"loosely.cli.{name}", Retry(total_seconds=0))
    accepted = json_response(202, job_document("queued"))
    gateway.responses = [accepted, HANG_UP] if accepts else [HANG_UP]
    done = submit(exit_code=69)
    key = gateway.requests[0].headers["idempotency-key"]
    found = f"loosely status {JOB_ID}" if accepts else f"--idempotency-key {key}"
    assert found in done.stderr


def test_submit_reads_standard_input(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    loosely("submit", "-", "-m", "x", "--type", "a/b", input=b"bytes")
    assert gateway.requests[0].body == b"bytes"
    assert gateway.requests[0].headers["content-type"] == "a/b"


def test_submit_explains_refusal_and_advises(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [
        problem_response(404, "unknown-model", "no model 'clasifier'; nearest: classifier.")
    ]
    done = submit(exit_code=1)
    assert done.stdout == ""
    assert done.stderr == (
        "unknown-model: no model 'clasifier'; nearest: classifier; "
        "`loosely models` lists the models\n"
    )


def test_submit_json_prints_problem_unchanged(submit: Run, gateway: ScriptedGateway) -> None:
    reply = problem_response(503, "saturated", "the queue is long", retryable=True)
    gateway.responses = [ScriptedResponse(503, reply.body, {**reply.headers, "retry-after": "20"})]
    done = submit("--json", exit_code=1)
    assert done.stdout == reply.body.decode() + "\n"
    assert done.stderr == "saturated: the queue is long; try again in 20 s\n"


def test_control_characters_are_replaced(
    loosely: Run, gateway: ScriptedGateway, picture: str
) -> None:
    hostile_text = "\x1b]0;title\x07 [red]not markup[/red]"
    gateway.responses = [problem_response(500, "inference-failed", hostile_text)]
    done = loosely("submit", picture, "-m", "x", exit_code=1)
    assert "\x1b" not in done.stderr
    assert "[red]not markup[/red]" in done.stderr

    hostile = {"labels": [{"label": "\x1b[2Jcat", "score": 1e9}]}
    gateway.responses = [json_response(200, job_document("succeeded\x1b[2J", result=hostile))]
    done = loosely("status", JOB_ID)
    assert "\x1b" not in done.stdout
    assert "cat" in done.stdout


def test_status_prints_details(loosely: Run, gateway: ScriptedGateway) -> None:
    failed = job_document("failed", error={"code": "inference-failed", "detail": "out of memory"})
    gateway.responses = [json_response(200, failed)]
    done = loosely("status", JOB_ID)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["job", JOB_ID],
        ["model", "classifier"],
        ["status", "failed"],
        ["created", "2026-01-02T03:04:05Z"],
        ["deadline", "2026-01-02T03:05:05Z"],
        ["attempt", "1"],
        ["error", "inference-failed:", "out", "of", "memory"],
    ]


TIMELINE = f"""\
classifier  succeeded  4.00 s  {JOB_ID}

accepted                               0.0 ms   0%  by the gateway
enqueued   ▏                           4.0 ms   0%  in Service Bus
received*  ████████████                2.00 s  50%  by a worker (#2)
batched                █             100.0 ms   2%  in a batch of 4 (#2)
run                    ███████████     1.88 s  47%  model returned (#2)
final                             ▏   20.0 ms   0%  job ended

delivery  state     worker  device  batch  time    reached  code
1         lost      -       -       -      -       -        -
2         answered  gpu-7   cpu     4      1.98 s  run      -

* the clock of gpu-7 is at least 350.0 ms behind the gateway's; these times were moved
webhook delivered
  2026-03-01T12:00:05.000Z  204
trace {"ab" * 16}
"""


def test_status_draws_timeline(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, timeline_document())]
    done = loosely("status", JOB_ID, "--timeline")
    drawn = "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"
    assert drawn == TIMELINE
    as_json = loosely("status", JOB_ID, "--timeline", "--json")
    assert json.loads(as_json.stdout) == timeline_document()
    assert gateway.requests[0].target == f"/v1/jobs/{JOB_ID}/timeline"


def test_malformed_timeline_cannot_control_terminal(loosely: Run, gateway: ScriptedGateway) -> None:
    hostile = {
        "steps": [
            {"name": "\x1b[2J", "duration_ms": -5, "share": "x", "delivery": "y"},
            {"name": "run", "duration_ms": 1e300},
            7,
        ],
        "deliveries": [{"worker": "\x07[red]gpu", "number": "one", "duration_ms": []}, None],
        "clock_skew": [{"ahead_ms": "far"}, "x"],
        "webhook": {"state": "\x1b]0;x\x07", "attempts": {"at": 1}},
        "trace_id": 9,
    }
    gateway.responses = [json_response(200, timeline_document(**hostile))]
    done = loosely("status", JOB_ID, "--timeline")
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "[red]gpu" in done.stdout


@pytest.mark.parametrize(
    ("response", "options"),
    [
        (json_response(200, timeline_document(total_ms=None)), ["--timeline"]),
        (ScriptedResponse(200, b"<html>"), []),
    ],
)
def test_foreign_response_exits_with_76(
    loosely: Run, gateway: ScriptedGateway, response: ScriptedResponse, options: list[str]
) -> None:
    gateway.responses = [response]
    loosely("status", JOB_ID, *options, exit_code=76)


def test_submit_of_expired_job_exits_with_1(submit: Run, gateway: ScriptedGateway) -> None:
    expired = job_document("expired", error={"code": "expired", "detail": "9 s are over"})
    gateway.responses = [
        json_response(202, job_document("queued"), retry_after="0"),
        json_response(200, expired),
    ]
    done = submit(exit_code=1)
    assert "expired: 9 s are over" in done.stdout


def test_result_shows_labels_as_table(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, SUCCEEDED["result"])]
    done = loosely("result", JOB_ID)
    assert done.stdout.splitlines()[0].rstrip() == "Egyptian cat  75.0%  ██████████████████"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 10**400, None, "high"])
def test_labels_with_invalid_score_are_json(
    loosely: Run, gateway: ScriptedGateway, score: object
) -> None:
    gateway.responses = [json_response(200, {"labels": [{"label": "cat\x9b2J", "score": score}]})]
    done = loosely("result", JOB_ID)
    assert '"label": "cat\ufffd2J"' in done.stdout


def test_result_of_running_job_exits_with_75(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(202, job_document("running"), retry_after="1")]
    done = loosely("result", JOB_ID, exit_code=75)
    assert done.stderr == "not-yet: the job is running; ask again later\n"


def test_cancel_prints_job(loosely: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(202, job_document("cancelling"))]
    done = loosely("cancel", JOB_ID)
    assert "cancelling" in done.stdout
    [request] = gateway.requests
    assert (request.method, request.target) == ("DELETE", f"/v1/jobs/{JOB_ID}")


def test_list_prints_jobs_up_to_limit(loosely: Run, gateway: ScriptedGateway) -> None:
    page = {"jobs": [SUCCEEDED, job_document("queued")], "next_cursor": "more"}
    gateway.responses = [json_response(200, page)]
    done = loosely("list", "--limit", "3", "--status", "queued", "--json")

    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == ["succeeded", "queued", "succeeded"]
    assert [request.target for request in gateway.requests] == [
        "/v1/jobs?status=queued",
        "/v1/jobs?status=queued&cursor=more",
    ]


def test_list_sends_filters(loosely: Run, gateway: ScriptedGateway) -> None:
    job = job_document("failed", label="order\x1b 1", tenant="acme")
    gateway.responses = [json_response(200, {"jobs": [job], "next_cursor": None})]
    filters = {
        "--code": "inference-failed",
        "--label": "order*",
        "--after": "2026-03-01T12:00:00Z",
        "--before": "2026-03-02T00:00:00+02:00",
        "--id": "0198*",
        "--batch": "0199",
        "--tenant": "*",
        "--cursor": "c",
    }
    options = [part for pair in filters.items() for part in pair]
    done = loosely("list", *options)
    assert done.stdout.split()[-3:] == ["acme", "order\ufffd", "1"]
    [request] = gateway.requests
    assert parse_qs(urlsplit(request.target).query) == {
        "code": ["inference-failed"],
        "label": ["order*"],
        "created_after": ["2026-03-01T12:00:00+00:00"],
        "created_before": ["2026-03-02T00:00:00+02:00"],
        "id": ["0198*"],
        "batch": ["0199"],
        "tenant": ["*"],
        "cursor": ["c"],
    }


def test_list_says_how_far_it_has_searched(loosely: Run, gateway: ScriptedGateway) -> None:
    pages = [
        {"next_cursor": f"c{day}", "searched_back_to": f"2026-03-0{day}T00Z"} for day in (3, 2)
    ]
    gateway.responses = [json_response(200, {"jobs": [], **page}) for page in pages]
    done = loosely("list", "--label", "x", "--pages", "2")
    assert done.stdout == ""
    assert done.stderr == "searched back to 2026-03-02T00:00:00+00:00; continue with: --cursor c2\n"
    assert len(gateway.requests) == 2


def test_list_refuses_invalid_time(loosely: Run, gateway: ScriptedGateway) -> None:
    done = loosely("list", "--after", "yesterday", exit_code=2)
    assert "is not a time" in done.stderr
    assert gateway.requests == []


def test_status_shows_progress_and_position(loosely: Run, gateway: ScriptedGateway) -> None:
    queued = {"position": 3, "eta_seconds": 12.4, "phase": "cold_starting"}
    jobs = [
        job_document("running", progress={"fraction": 0.4, "message": "step\n2"}),
        job_document("queued", queue=queued),
        job_document("queued", queue={"phase": "model_broken"}),
    ]
    gateway.responses = [json_response(200, job) for job in jobs]
    shown = [loosely("status", JOB_ID).stdout for _ in range(3)]
    assert "progress  40%  step 2 " in shown[0]
    assert "position 3, about 12 s, a worker is starting" in shown[1]
    assert "no worker can load the model: tell the operator" in shown[2]


def test_submit_warns_once_of_broken_model(submit: Run, gateway: ScriptedGateway) -> None:
    phases = ("queued", "model_broken", "queued", "model_broken")
    waiting = [{**job_document("queued"), "queue": {"phase": phase}} for phase in phases]
    gateway.responses = [json_response(202, waiting[0])]
    gateway.responses += [json_response(200, document) for document in (*waiting, SUCCEEDED)]
    done = submit()
    assert done.stderr.count("no worker can load the model") == 1


def test_submit_sends_json_and_text_parameters(submit: Run, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    given = ["--param", "top=3", "--param", "mode=fast=yes", "--param", 'of=["a"]']
    submit(*given)
    (sent,) = parse_qs(urlsplit(gateway.requests[0].target).query)["parameters"]
    assert json.loads(sent) == {"top": 3, "mode": "fast=yes", "of": ["a"]}


def test_submit_sends_named_inputs(submit: Run, gateway: ScriptedGateway, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"\x89PNG\r\n\x1a\n mask")
    gateway.responses = [json_response(200, SUCCEEDED)]
    given = ["--input", f"mask={mask}", "--param", "top=3"]
    submit(*given)
    sent = json.loads(gateway.requests[0].body)
    assert sent["inputs"]["mask"]["media_type"] == "image/png"
    assert sent["parameters"] == {"top": 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--param", "top"], "expected NAME=VALUE, found 'top'"),
        (["--param", "=3"], "expected NAME=VALUE"),
        (["--param", "a=1", "--param", "a=2"], "a is given twice"),
        (["--input", "mask"], "expected NAME=FILE, found 'mask'"),
        (["--input", "mask=/none/mask.png"], "No such file"),
        (["--input", f"a={__file__}", "--input", f"a={__file__}"], "a is given twice"),
        (["--type", "application/json"], "the input is not JSON"),
    ],
)
def test_submit_refuses_malformed_options(
    submit: Run, gateway: ScriptedGateway, given: list[str], said: str
) -> None:
    done = submit(*given, exit_code=2)
    assert said in done.stderr
    assert gateway.requests == []


def test_models_prints_table(loosely: Run, gateway: ScriptedGateway) -> None:
    model = {"name": "classifier", "task": "label", "media_types": ["image/jpeg", "image/png"]}
    gateway.responses = [json_response(200, {"models": [model]})]
    done = loosely("models")
    assert done.stdout.split() == ["classifier", "label", "image/jpeg,", "image/png"]


@pytest.mark.parametrize(
    ("options", "env"),
    [(["--api-key", "lsy_secret"], {}), ([], {"LOOSELY_API_KEY": "lsy_secret"})],
)
def test_api_key_is_sent_and_not_printed(
    loosely: Run, gateway: ScriptedGateway, options: list[str], env: dict[str, str]
) -> None:
    gateway.responses = [problem_response(401, "unauthenticated", "the key is not known")]
    done = loosely("status", JOB_ID, *options, env=env, exit_code=1)
    assert gateway.requests[0].headers["authorization"] == "Bearer lsy_secret"
    assert "secret" not in done.output
    assert done.stderr.endswith("pass your API key with --api-key or LOOSELY_API_KEY\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "missing.jpg", "--model", "x"],
        ["submit", __file__],
        ["submit", __file__, "--model", "x", "--type", "j\u00e4ger/x"],
        ["status", JOB_ID, "--url", "nonsense"],
        ["up", "--only", "nothing"],
        ["up", "--port", "80"],
        ["nonsense"],
    ],
)
def test_invalid_arguments_exit_with_2(loosely: Run, arguments: list[str]) -> None:
    loosely(*arguments, exit_code=2)


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )


def test_unreachable_gateway_exits_with_69(tmp_path: Path) -> None:
    done = run_python(tmp_path, "-m", "loosely", "status", JOB_ID, "--url", "http://127.0.0.1:9")
    assert done.returncode == 69
    assert done.stderr.startswith("unreachable: http://127.0.0.1:9 cannot be reached: ")
    assert "loosely up" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            "import sys, loosely; heavy = {'httpx', 'typer', 'rich', 'psutil'} & set(sys.modules);"
            "loosely.Client; print(*heavy); assert 'httpx' in sys.modules",
            id="package",
        ),
        pytest.param(
            "import sys, loosely.cli, loosely.cli.up, loosely.local.run;"
            "heavy = {'httpx', 'psutil', 'PIL', 'yaml', 'loosely.cli.jobs'};"
            "print(*(heavy & sys.modules.keys()))",
            id="up",
        ),
    ],
)
def test_imports_are_lazy(tmp_path: Path, code: str) -> None:
    done = run_python(tmp_path, "-c", code)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_misspelled_command_names_similar_one(loosely: Run) -> None:
    assert "submit" in loosely("sumbit", exit_code=2).output


def test_version_and_help_are_printed(loosely: Run) -> None:
    assert loosely("--version").stdout == f"loosely {__version__}\n"
    helped = loosely("--help").stdout
    for word in ("up", "submit", "status", "result", "cancel", "list", "models", "Exit codes"):
        assert word in helped


def open_in_browser(tmp_path: Path, *arguments: str, exit_code: int = 0) -> tuple[int, str, str]:
    """Run `loosely open` with a fake browser that ends with `exit_code`.

    Return the exit code of the command, its output, and the URL that the browser was given.
    """
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" >{opened}\nexit {exit_code}\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "BROWSER": f"{program} %s", "PYTHONPATH": str(ROOT)}
    for name in ("LOOSELY_URL", "DISPLAY", "PATH"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "loosely", "open", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    url = opened.read_text(encoding="utf-8") if opened.exists() else ""
    return done.returncode, done.stdout + done.stderr, url


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ((), "http://127.0.0.1:7071/"),
        (("play",), "http://127.0.0.1:7071/play"),
        (("docs",), "http://127.0.0.1:7071/docs"),
        (("ops",), "http://127.0.0.1:7071/ops"),
        (("docs", "--url", "https://api.example/base/"), "https://api.example/base/docs"),
    ],
)
def test_open_shows_page_in_browser(
    tmp_path: Path, arguments: tuple[str, ...], address: str
) -> None:
    code, output, opened = open_in_browser(tmp_path, *arguments)
    assert (code, output, opened) == (0, f"{address}\n", address)


def test_open_without_browser_prints_address(tmp_path: Path) -> None:
    code, output, _ = open_in_browser(tmp_path, "docs", exit_code=1)
    assert code == 1
    assert output.startswith("http://127.0.0.1:7071/docs\n")
    assert "open this address yourself" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("problems",), "there is no page 'problems'; the pages are play, ops, docs"),
        (("docs", "--url", "file:///etc/passwd"), "is not an http:// or https:// URL"),
    ],
)
def test_open_refuses_unknown_page_and_url(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, output, opened = open_in_browser(tmp_path, *arguments)
    assert (code, opened) == (2, "")
    assert message in " ".join(output.replace("│", " ").split())


LOGS = {
    "functions.log": "2026-03-01 12:00:01,000 INFO [Functions.http] job a1 was accepted\n",
    "worker.log.1": "2026-03-01 11:00:00,000 INFO    worker job a1 of an earlier start\n",
    "worker.log": "2026-03-01 12:00:00,500 INFO    worker ready\n"
    "2026-03-01 12:00:02,000 ERROR   worker job a1 failed\n"
    "    Traceback (most recent call last):\n    ValueError: \x1b[31mwhy\n",
}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Return the folder with logs of a data directory that `loosely up --data` has used."""
    data, folder = tmp_path / "elsewhere", tmp_path / ".loosely"
    (data / "logs").mkdir(parents=True)
    folder.mkdir()
    (folder / "data-directory").write_text(f"{data}\n")
    for name, text in LOGS.items():
        (data / "logs" / name).write_text(text)
    return data / "logs"


@pytest.mark.usefixtures("logs")
def test_logs_are_sorted_by_time(loosely: Run) -> None:
    done = loosely("logs")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("worker", "functions", "worker", "worker", "worker")
    ]
    assert "ValueError: \ufffd[31mwhy" in done.stdout
    assert "earlier" not in done.stdout


@pytest.mark.usefixtures("logs")
def test_logs_of_one_job(loosely: Run) -> None:
    done = loosely("logs", "worker", "--job", "a1")
    assert [line[:10] for line in done.stdout.splitlines()] == [
        *("2026-03-01", "2026-03-01", "    Traceb", "    ValueE")
    ]
    assert "ready" not in done.stdout
    loosely("logs", "wrker", exit_code=1)


def test_logs_are_followed(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view, steps = LogView(logs, "worker", None), iter([b"half a line", b"\n", None])
    assert len(view.read_new()) == 2

    def sleep(_seconds: float) -> None:
        more = next(steps)
        if more is None:
            raise KeyboardInterrupt
        with (logs / "worker.log").open("ab") as log:
            log.write(more)

    view.follow(sleep)
    assert capsys.readouterr().out == "half a line\n"


def test_json_on_terminal_has_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    echo_json('{"a": "\x9b31m\x1b]0;title"}'.encode())
    assert terminal.getvalue() == '{"a": "\ufffd31m\ufffd]0;title"}\n'


def test_each_command_with_url_has_json() -> None:
    def commands(group: Any, path: str) -> Iterator[tuple[str, list[str]]]:
        context = typer.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            yield f"{path}{name}", [option for each in command.params for option in each.opts]
            if hasattr(command, "list_commands"):
                yield from commands(command, f"{path}{name} ")

    found = dict(commands(get_command(app), ""))
    assert "dead-letters redrive-all" in found
    without = {name for name, each in found.items() if "--url" in each and "--json" not in each}
    assert without == {"open"}  # prints an address


def test_keys_new_prints_key_and_entry(loosely: Run) -> None:
    done = loosely("keys", "new", "ci", "--tenant", "acme", "--scope", "jobs:read", "--json")
    made = json.loads(done.stdout)
    assert made["key"].startswith("lsy_")
    assert (made["entry"]["name"], made["entry"]["scopes"]) == ("ci", ["jobs:read"])
    loosely("keys", "new", "ci", "--tenant", "acme", "--rate", "often", exit_code=2)


def test_list_shows_error_codes(loosely: Run, gateway: ScriptedGateway) -> None:
    failed = job_document("failed", error={"code": "inference-failed", "message": "no"})
    gateway.responses = [json_response(200, {"jobs": [failed, SUCCEEDED], "next_cursor": None})]
    done = loosely("list")
    assert ["inference-failed" in line for line in done.stdout.splitlines()] == [True, False]


def test_submit_prints_text_result(submit: Run, gateway: ScriptedGateway) -> None:
    job = {**SUCCEEDED, "result": 'She said "yes".\nThe \x1bend.'}
    gateway.responses = [json_response(200, job)]
    done = submit()
    assert done.stdout.splitlines()[1:] == ['She said "yes".', "The \ufffdend."]


TYPE = "unsupported-media-type"


@pytest.mark.parametrize(
    ("code", "members", "advice"),
    [
        ("expired", {"ran": False}, "no worker took the job in time: check that one runs, or use"),
        ("expired", {"ran": True}, "submit the job again with a longer --deadline"),
        ("invalid-input", {"pointer": "/parameters/top"}, "correct --param"),
        (
            "invalid-input",
            {"pointer": "/parameters/top", "detail": "parameters/top: expected a string, found 12"},
            """put a text in quotes: --param 'NAME="12"', or 'NAME=["12"]' in a list""",
        ),
        (TYPE, {"found": "image/png", "accepted": ["image/png"]}, "pass --type image/png"),
        (
            TYPE,
            {"found": "image/gif", "accepted": ["image/png"]},
            "convert the file, or state its media type with --type",
        ),
        ("invalid-input", {"limit_pixels": 9}, "scale the picture down"),
        (
            "invalid-input",
            {"pointer": "/inputs/mask", "detail": "x needs this input"},
            "add --input mask=FILE",
        ),
        ("invalid-input", {"detail": "webhook.url: not public"}, ""),
        ("saturated", {"retry_after": 20}, "try again in 20 s"),
    ],
)
def test_advice_fits_problem(code: str, members: dict[str, Any], advice: str) -> None:
    document = {"code": code, "detail": "no", **members}
    problem = read_problem(400, json.dumps(document).encode(), members.get("retry_after"))
    assert problem is not None
    expected = f"{code}: {document['detail']}" + (f"; {advice}" if advice else "")
    assert format_error(problem).startswith(expected)
    assert advice or format_error(problem) == expected


@pytest.mark.parametrize(
    ("url", "is_sent", "advice"),
    [
        ("http://127.0.0.1:9", False, "start the gateway with `loosely up`"),
        ("https://example.org", False, "check --url and the network"),
        ("https://example.org", True, "see the gateway's log"),
    ],
)
def test_advice_fits_unreachable_url(url: str, advice: str, *, is_sent: bool) -> None:
    assert advice in format_error(GatewayUnreachable(url, "why", is_sent=is_sent))
