"""Test the format of log lines, as JSON objects and as text."""

import io
import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.telemetry.recording import TextLines, log_fields
from worker.telemetry.setup import JsonLines


class Lines:
    """A separate logger that writes JSON lines, and the lines that the logger has written."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.log = logging.Logger("worker.test")
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(JsonLines())
        self.log.addHandler(handler)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().split("\n")[:-1]]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_json_line_has_level_logger_and_message(lines: Lines) -> None:
    before = datetime.now(UTC)
    lines.log.warning("%s of %d", "two", 3)
    (line,) = lines.read()
    assert list(line) == ["time", "level", "logger", "message"]
    assert (line["level"], line["logger"], line["message"]) == (
        "warning",
        "worker.test",
        "two of 3",
    )
    assert abs(datetime.fromisoformat(line["time"]) - before).total_seconds() < 5


def test_json_line_has_the_fields_of_the_job(lines: Lines) -> None:
    with log_fields(job_id="job-1", model="noop", trace_id="ab"):
        lines.log.info("inside")
        other = threading.Thread(target=lines.log.info, args=("on another thread",))
        other.start()
        other.join()
    lines.log.info("after")
    inside, elsewhere, after = lines.read()
    assert (inside["job_id"], inside["model"], inside["trace_id"]) == ("job-1", "noop", "ab")
    assert "job_id" not in elsewhere
    assert "job_id" not in after


def test_exception_is_one_json_line(lines: Lines) -> None:
    lines.log.error("failed", exc_info=RuntimeError("first\nsecond"))
    (line,) = lines.read()
    assert "RuntimeError: first\nsecond" in line["exception"]


@given(st.text())
def test_any_text_is_one_json_line(text: str) -> None:
    lines = Lines()
    lines.log.info("%s", text)
    (line,) = lines.read()
    assert line["message"] == text


HOSTILE = "ok\n2026-01-01 00:00:00,000 ERROR   worker forged\r\x1b[2J\u2028\u202e\x9b"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def text_log(stream: io.StringIO) -> logging.Logger:
    log = logging.Logger("worker.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines())
    log.addHandler(handler)
    return log


def test_control_characters_are_escaped_in_text(
    text_log: logging.Logger, stream: io.StringIO
) -> None:
    text_log.warning("queue %s: message %s", "noop", HOSTILE)
    line, rest = stream.getvalue().split("\n")
    assert rest == ""
    assert line.endswith(
        r"message ok\n2026-01-01 00:00:00,000 ERROR   worker forged\r\x1b[2J\u2028\u202e\x9b"
    )
    assert line.isprintable()


def test_tracebacks_are_escaped_and_indented(text_log: logging.Logger, stream: io.StringIO) -> None:
    text_log.error("failed", exc_info=ValueError(HOSTILE))
    first, *lines = stream.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("worker.test failed")
    assert any("ValueError: ok" in line for line in lines)
    assert all(line.startswith("    ") and line.isprintable() for line in lines)


@given(st.text())
def test_any_message_is_one_text_line(text: str) -> None:
    record = logging.LogRecord("worker", logging.INFO, "", 0, "%s", (text,), None)
    assert TextLines().format(record).isprintable()
