"""Check that the current orchestrators can still replay recorded histories.

Each file contains the history of one job, webhook delivery or step of a batch: the input of each
call of the orchestrator, and its answer. A new version of an orchestrator must give the same
answers, because it also continues the orchestrations that an older version has started.

If the test of a file fails, do not edit the file. If the change of the orchestrator is necessary,
give the new orchestrator a new name, and keep the old one until its orchestrations have ended.

`python -m tests.replay.record` writes new files.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from azure.durable_functions import Orchestrator

from gateway.batches.orchestrator import batch
from gateway.jobs import orchestrator
from gateway.webhooks.orchestrator import webhook

FOLDER = Path(__file__).parent / "histories"
FILES = sorted(FOLDER.glob("*.json"))
OUTCOMES = sorted((FOLDER / "outcomes").glob("*.json"))
WEBHOOKS = sorted((FOLDER / "webhooks").glob("*.json"))
BATCHES = sorted((FOLDER / "batches").glob("*.json"))

FIRST = [None, "reply", "cancel", None]
ONE_TASK = [None]
TIMER_FIRED = 11
TIMER_ACTION = 5
CONTINUE_AS_NEW = 4


def episodes(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["turns"]
    return found


@pytest.mark.parametrize(
    "path", FILES + OUTCOMES + WEBHOOKS + BATCHES, ids=lambda path: str(path.relative_to(FOLDER))
)
def test_recorded_actions_are_returned(path: Path) -> None:
    orchestrators = {"webhooks": webhook, "batches": batch}
    replay = Orchestrator.create(orchestrators.get(path.parent.name, orchestrator.job))
    for episode in episodes(path):
        for _ in range(2):
            assert json.loads(replay(json.dumps(episode["context"]))) == episode["answer"]
        assert orchestrator.end_at_start(json.dumps(episode["context"])) is None


@pytest.mark.parametrize("paths", [FILES, OUTCOMES], ids=["before outcomes", "outcomes"])
def test_each_final_status_has_a_history(paths: list[Path]) -> None:
    ends = {episodes(path)[-1]["answer"]["output"]["status"] for path in paths}
    assert ends == {"succeeded", "failed", "cancelled", "expired"}


@pytest.mark.parametrize("path", OUTCOMES, ids=lambda path: path.stem)
def test_events_are_awaited_only_in_the_first_group(path: Path) -> None:
    # .NET waits for one task of a group before it processes the next group. If a later group also
    # waited for an event, the job would not end.
    for episode in episodes(path):
        (groups,) = episode["answer"]["actions"]
        first, *later = [
            [action.get("externalEventName") for action in group["compoundActions"]]
            for group in groups
        ]
        assert first == FIRST
        assert all(group == ONE_TASK for group in later)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_event_is_awaited_once(path: Path) -> None:
    # .NET runs the groups one after another (see the docstring of the orchestrator).
    for episode in episodes(path):
        (groups,) = episode["answer"]["actions"]
        names = [
            [action.get("externalEventName") for action in group["compoundActions"]]
            for group in groups
        ]
        # After a cancellation, a running job waits once more for other tasks. A job with a webhook
        # calls an activity at the end.
        assert names in ([FIRST], [FIRST, ["stopped", None]], [FIRST, [None]])


@pytest.mark.parametrize(
    "path", OUTCOMES + WEBHOOKS + BATCHES, ids=lambda path: str(path.relative_to(FOLDER))
)
def test_every_timer_is_cancelled_or_has_fired(path: Path) -> None:
    # An instance stays Running until its open timers have fired.
    last = episodes(path)[-1]
    fired = {
        _time(event["FireAt"])
        for event in last["context"]["history"]
        if event["EventType"] == TIMER_FIRED
    }
    not_cancelled = {
        _time(action["fireAt"])
        for group in last["answer"]["actions"][0]
        for action in group.get("compoundActions", [group])
        if action["actionType"] == TIMER_ACTION and not action["isCanceled"]
    }
    continues = last["answer"]["actions"][0][-1]["actionType"] == CONTINUE_AS_NEW
    assert last["answer"]["isDone"] or continues
    assert not_cancelled <= fired


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z"))
