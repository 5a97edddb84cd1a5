"""Test how `./dev bench cpu --layers` divides a job's processor time by layer."""

import pytest

from lab.benchmarks.layers import (
    EVENT_LOOP,
    OTHER,
    THREADS,
    UNSAMPLED,
    Stack,
    find_layer,
    parse_stacks,
    rows,
    share_by_layer,
)
from worker.pipeline.consumer import Consumer, ThreadGroup

ROOT = "/code/worker/loosely"
LIBRARY = "/usr/lib/python3.11"
PACKAGES = f"{ROOT}/.venv/lib/python3.11/site-packages"
HOST = f"{ROOT}/emulator/functions/__main__.py:main"
RUNNER = f"{LIBRARY}/asyncio/runners.py:Runner.run"
SUBMIT = f"{ROOT}/functions/gateway/http/routes/submit.py:submit"
CREATE = f"{ROOT}/functions/gateway/submission/create.py:JobCreator.create"
THREAD = f"{LIBRARY}/threading.py:Thread.run"
GROUP = f"{ROOT}/worker/pipeline/consumer.py:{ThreadGroup._run.__qualname__}"


@pytest.mark.parametrize(
    ("frames", "layer"),
    [
        pytest.param((HOST, RUNNER, SUBMIT), "gateway: HTTP, with FastAPI", id="our module"),
        pytest.param((HOST, RUNNER, SUBMIT, CREATE), "gateway: submission", id="innermost wins"),
        pytest.param(
            (HOST, RUNNER, CREATE, f"{LIBRARY}/json/encoder.py:JSONEncoder.iterencode"),
            "gateway: submission",
            id="standard library",
        ),
        pytest.param(
            (HOST, RUNNER, CREATE, "<string>:__create_fn__.<locals>.__init__"),
            "gateway: submission",
            id="generated code",
        ),
        pytest.param(
            (HOST, RUNNER, SUBMIT, f"{PACKAGES}/starlette/responses.py:Response.__call__"),
            "gateway: HTTP, with FastAPI",
            id="package without a layer",
        ),
        pytest.param(
            (HOST, RUNNER, CREATE, f"{PACKAGES}/azure/servicebus/_pyamqp/_encode.py:encode_list"),
            "Service Bus SDK: AMQP",
            id="longest prefix of a package",
        ),
        pytest.param(
            (HOST, RUNNER, f"{ROOT}/emulator/functions/durable/store.py:Store.commit"),
            "local host: Durable store (SQLite)",
            id="longest prefix of ours",
        ),
        pytest.param((HOST, RUNNER), EVENT_LOOP, id="callers of the event loop do not count"),
        pytest.param(
            (HOST, RUNNER, f"{LIBRARY}/asyncio/streams.py:StreamWriter.write"),
            EVENT_LOOP,
            id="task of the event loop",
        ),
        pytest.param(
            (THREAD, GROUP, f"{ROOT}/worker/pipeline/infer.py:BatchQueue.take_batch", THREAD),
            THREADS,
            id="hand-over",
        ),
        pytest.param((THREAD, GROUP), THREADS, id="waits for the next call"),
        pytest.param(
            (THREAD, f"{ROOT}/worker/pipeline/consumer.py:{Consumer.run_queue.__qualname__}"),
            THREADS,
            id="lets another thread run",
        ),
        pytest.param(
            (THREAD, GROUP, f"{ROOT}/worker/pipeline/consumer.py:Consumer._accept_message"),
            "worker: receive and settle",
            id="a call on a thread",
        ),
        pytest.param((THREAD,), THREADS, id="only the standard library"),
        pytest.param((f"{PACKAGES}/unknown/module.py:run",), OTHER, id="unknown package"),
    ],
)
def test_stack_counts_to_its_innermost_layer(frames: tuple[str, ...], layer: str) -> None:
    assert find_layer(frames, ROOT) == layer


def test_stacks_of_py_spy_are_parsed() -> None:
    text = (
        "thread (12): MainThread;run (/code/a b.py:7);f.<locals>.g (<frozen runpy>:3) 4\n"
        "thread (13): noop-reply_0;run (/code/c.py:1) 2\n"
        "thread (14): without frames 2\n"
    )
    assert parse_stacks(text) == [
        Stack(12, ("/code/a b.py:run", "<frozen runpy>:f.<locals>.g"), 4),
        Stack(13, ("/code/c.py:run",), 2),
    ]


def test_samples_divide_the_processor_time_of_their_thread() -> None:
    stacks = [
        Stack(1, (HOST, RUNNER, SUBMIT), 1),
        Stack(1, (HOST, RUNNER, CREATE), 2),
        Stack(1, (HOST, RUNNER, CREATE, f"{LIBRARY}/base64.py:b64encode"), 1),
        Stack(2, (THREAD,), 500),
        Stack(3, (HOST, RUNNER, CREATE), 9),
    ]
    shares = share_by_layer(stacks, {1: 6.0, 2: 0.0, 3: 1.0, 4: 1.0}, ROOT)
    assert shares == {
        "gateway: HTTP, with FastAPI": 1.5 / 8,
        "gateway: submission": (4.5 + 1.0) / 8,
        UNSAMPLED: 1.0 / 8,
    }


def test_process_without_stacks_is_not_sampled() -> None:
    assert share_by_layer([], {}, ROOT) == {UNSAMPLED: 1.0}


def test_rows_have_sums_and_the_largest_first() -> None:
    found = {
        "tiny": {"blobs": {UNSAMPLED: 0.1}, "functions": {"contract": 0.5, EVENT_LOOP: 1.5}},
        "noop": {"functions": {"contract": 4.0}},
    }
    assert rows(found) == [
        ["all", "", "2.10", "4.00"],
        ["functions", "", "2.00", "4.00"],
        ["", "contract", "0.50 (25%)", "4.00 (100%)"],
        ["", EVENT_LOOP, "1.50 (75%)", "0.00 ( 0%)"],
        ["blobs", "", "0.10", "0.00"],
        ["", UNSAMPLED, "0.10 (100%)", "0.00 ( 0%)"],
    ]
