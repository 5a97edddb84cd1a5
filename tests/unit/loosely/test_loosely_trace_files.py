"""Write spans to files, and read the spans of one trace again."""

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from loosely.local.trace_files import FOLDER_VARIABLE, make_exporter, read_trace


def test_the_spans_of_a_trace_are_read_as_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "traces"))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(make_exporter()))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("outer", attributes={"a": 1}) as outer:
        with tracer.start_as_current_span("first"):
            pass
        with pytest.raises(ValueError, match="wrong"), tracer.start_as_current_span("second"):
            raise ValueError("wrong")
    with tracer.start_as_current_span("of another trace"):
        pass
    (root,) = read_trace(tmp_path / "traces", f"{outer.get_span_context().trace_id:032x}")
    assert (root.name, root.begin_ms, root.attributes) == ("outer", 0.0, {"a": "1"})
    assert [(each.name, each.is_error) for each in root.children] == [
        ("first", False),
        ("second", True),
    ]
    assert root.duration_ms >= sum(each.duration_ms for each in root.children)


def test_a_line_that_a_killed_process_left_incomplete_is_skipped(tmp_path: Path) -> None:
    trace_id = "0" * 31 + "1"
    span = {
        "trace_id": trace_id,
        "span_id": "2",
        "parent_id": "9",
        "service": "s",
        "name": "n",
        "start_ns": 10**6,
        "end_ns": 3 * 10**6,
        "is_error": False,
        "attributes": {},
    }
    line = json.dumps(span)
    (tmp_path / "1.jsonl").write_text(f"{line}\n{line[:60]}\n", encoding="utf-8")
    (root,) = read_trace(tmp_path, trace_id)
    assert (root.name, root.duration_ms) == ("n", 2.0)
    assert read_trace(tmp_path, "f" * 32) == []


def test_the_exporter_refuses_to_start_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=FOLDER_VARIABLE):
        make_exporter()
