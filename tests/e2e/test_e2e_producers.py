"""Put requests on queues directly, without the gateway, and check the worker's replies."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import by_hand
from tests.e2e.system import ROOT, System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

PAGE = ROOT / "docs/reference/message-contract.md"


@pytest.fixture
def reply_queue(system: System) -> Iterator[str]:
    with by_hand.reply_queue(system) as name:
        yield name


def test_documented_program_receives_its_reply(
    system: System, reply_queue: str, tmp_path: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "producer.py"
    program.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(program), system.service_bus, reply_queue],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("True ")
    assert json.loads(ran.stdout.removeprefix("True "))["result"]["json"]["size_bytes"] > 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"input": {"media_type": "audio/wav", "base64": "AAAA"}}, "unsupported-media-type"),
        ({"deadline": "2026-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_producer_receives_an_error(
    system: System, reply_queue: str, changes: dict[str, Any], code: str
) -> None:
    assert by_hand.request_reply(system, reply_queue, **changes)["error"]["code"] == code


def test_producer_receives_a_low_priority_reply(system: System, reply_queue: str) -> None:
    answer = by_hand.request_reply(system, reply_queue, "noop-low")
    assert answer["result"]["json"]["size_bytes"] == 1


@pytest.mark.parametrize("queue", ["noop", "noop-low"])
def test_producer_receives_a_dead_letters_failure(
    system: System, reply_queue: str, queue: str
) -> None:
    answer = by_hand.request_reply(system, reply_queue, queue, model="classifier")
    assert answer["error"]["code"] == "dead-lettered"
