"""Test that encoding and decoding a heartbeat changes nothing, and that bad JSON is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contract
import loosely
from contract.errors import MalformedMessage
from contract.heartbeats import (
    MAX_HEARTBEAT_BYTES,
    MAX_MODELS,
    Heartbeat,
    ModelHeartbeat,
    ModelState,
    decode_heartbeat,
    encode_heartbeat,
)

STARTED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEAT = Heartbeat("pod-7", "1", STARTED_AT, 5.0, replaced="pod-6", death="exited with code 1")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
counts = st.integers(0, 2**50)
seconds = st.floats(0, 1e6, allow_nan=False)
models = st.builds(
    ModelHeartbeat,
    name=texts,
    state=st.sampled_from(ModelState),
    code=st.none() | texts,
    reason=st.none() | texts,
    load_seconds=st.none() | seconds,
    in_flight=counts,
    batch_size=st.none() | counts,
    device_bytes=st.none() | counts,
    concurrent_jobs=st.none() | counts,
    max_concurrent_jobs=st.none() | counts,
    loading=st.none() | texts,
)
heartbeats = st.builds(
    Heartbeat,
    worker=texts,
    version=texts,
    started_at=st.just(STARTED_AT),
    interval_seconds=seconds,
    is_draining=st.booleans(),
    device=texts,
    total_bytes=st.none() | counts,
    used_bytes=st.none() | counts,
    models=st.lists(models, max_size=4).map(tuple),
    replaced=st.none() | texts,
    death=st.none() | texts,
)


@given(heartbeats)
def test_heartbeat_is_decoded_unchanged(heartbeat: Heartbeat) -> None:
    assert decode_heartbeat(encode_heartbeat(heartbeat)) == heartbeat


def test_unknown_members_are_ignored() -> None:
    value = {**json.loads(encode_heartbeat(BEAT)), "news": [1], "total_bytes": None}
    assert decode_heartbeat(json.dumps(value).encode()) == BEAT


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": 1},
        {"started_at": "now"},
        {"interval_seconds": -1},
        {"is_draining": "no"},
        {"total_bytes": "8GiB"},
        {"models": {}},
        {"models": [1]},
        {"models": [{"name": "noop", "state": "asleep", "in_flight": 0}]},
        {"models": [{"name": "noop", "state": "loaded", "in_flight": -1}]},
        {"models": [{}] * (MAX_MODELS + 1)},
    ],
)
def test_malformed_heartbeat_is_refused(changes: dict[str, Any]) -> None:
    value = {**json.loads(encode_heartbeat(BEAT)), **changes}
    with pytest.raises(MalformedMessage):
        decode_heartbeat(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 10_000, b"x" * 10])
def test_text_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_heartbeat(data)


def test_large_heartbeat_is_refused_before_parsing() -> None:
    with pytest.raises(MalformedMessage, match="at most 65536 are allowed"):
        decode_heartbeat(b" " * (MAX_HEARTBEAT_BYTES + 1))


def test_long_error_text_is_truncated() -> None:
    model = ModelHeartbeat("noop", ModelState.BROKEN, "model-failed", "x" * 10_000)
    assert len(encode_heartbeat(Heartbeat("w", "1", STARTED_AT, 5, models=(model,)))) < 1000


def test_all_packages_have_the_same_version() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{contract.VERSION}"\n' in project
    assert loosely.__version__ == contract.VERSION
