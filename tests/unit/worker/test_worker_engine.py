"""Test engine servers: their start and end, and the requests that jobs become.

The engine is `tests/engine_server.py`, which answers as its prompt says.
"""

import asyncio
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.engine_server import words
from tests.unit.worker.managed_models import until
from worker.errors import EngineFailed, EngineLost, InferenceFailed, InvalidInput, LoadInterrupted
from worker.inference.engine_answers import MAX_EVENT_BYTES, EventReader, assemble, text_of
from worker.inference.loading import LoadProgress
from worker.models.engine import Infer
from worker.processes.engine_server import EngineServer, engine_environment

SCRIPT = Path(__file__).parents[2] / "engine_server.py"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(SCRIPT))} --port {{port}}"
LOADING = LoadProgress("chat")


class RecordingContext:
    """The context of a job: it keeps what the model emits."""

    def __init__(self, operation: str | None = None, *, is_streaming: bool = False) -> None:
        self.operation, self.is_streaming = operation, is_streaming
        self.chunks = list[Any]()
        self.has_chunks = asyncio.Event()

    def emit(self, chunk: Any) -> None:
        self.chunks.append(chunk)
        self.has_chunks.set()

    async def wait_for_room(self) -> None:
        await asyncio.sleep(0)


class ReloadedLoad(LoadProgress):
    """A load that keeps the reasons of the reloads that its model requests."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.reasons = list[str]()

    def reload(self, crash: str = "") -> None:
        self.reasons.append(crash)


class RunningEngine:
    """An engine model on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.loading = ReloadedLoad("chat")
        self.infer = Infer(self.loading, command=COMMAND)

    @property
    def server(self) -> EngineServer:
        return self.infer._server

    def call(self, item: str | dict[str, Any], context: RecordingContext | None = None) -> Any:
        data = item if isinstance(item, str) else json.dumps(item)
        found = context or RecordingContext()
        call = self.infer(data.encode(), found, parameters={})  # type: ignore[arg-type]
        return self.loop.run_until_complete(call)

    def chat(self, prompt: str, *, is_streaming: bool = True, **more: Any) -> Any:
        context = RecordingContext("chat.completions", is_streaming=is_streaming)
        body = {"messages": [{"role": "user", "content": prompt}], "model": "chat", **more}
        return self.call(body, context), context.chunks

    def open_count(self) -> int:
        return int(httpx.get(f"{self.server.url}/state").json()["open"])


@pytest.fixture
def engine() -> Iterator[RunningEngine]:
    loop = asyncio.new_event_loop()
    running = RunningEngine(loop)
    yield running
    loop.run_until_complete(running.infer.close())
    loop.close()


def engine_processes(server: EngineServer) -> list[psutil.Process]:
    guard = psutil.Process(server._process.pid)
    return [guard, *guard.children(recursive=True)]


def test_plain_text_is_a_chat(engine: RunningEngine) -> None:
    context = RecordingContext(is_streaming=True)
    text = engine.call("tokens=5 hello", context)
    assert text == "".join(words("tokens=5 hello", 5))
    assert "".join(context.chunks) == text
    assert engine.call("tokens=5 hello") == text


def test_a_stream_and_an_answer_are_the_same(engine: RunningEngine) -> None:
    streamed, chunks = engine.chat("tokens=4 hi", stream_options={"include_usage": True})
    whole, none = engine.chat("tokens=4 hi", is_streaming=False, stream_options={})
    assert [each["choices"][0]["message"]["content"] for each in (streamed, whole)] == [
        "".join(words("tokens=4 hi", 4))
    ] * 2
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 4
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    assert {each["model"] for each in (*chunks, streamed, whole)} == {"chat"}
    assert not none


def test_other_operations_reach_their_routes(engine: RunningEngine) -> None:
    responses = RecordingContext("responses", is_streaming=True)
    answer = engine.call({"input": "tokens=2 x", "model": "m"}, responses)
    assert answer["object"] == "response"
    assert answer["model"] == "m"
    assert [each["type"] for each in responses.chunks] == [
        *("response.created", "response.output_text.delta", "response.output_text.delta"),
        "response.completed",
    ]
    found = engine.call({"input": ["a", "b"]}, RecordingContext("embeddings", is_streaming=True))
    assert len(found["data"]) == 2
    assert engine.call({"prompt": "tokens=2 x"})["object"] == "text_completion"


@pytest.mark.parametrize(
    ("prompt", "error", "text"),
    [
        ("fault=broken-sse", InferenceFailed, "not a JSON object: '{no JSON'; check that options"),
        ("fault=wrong-type", InferenceFailed, "the type text/plain, not with JSON; check that"),
        ("fault=floods", InferenceFailed, "more than 67108864 bytes; ask for fewer tokens"),
        ("fault=ends-early", InferenceFailed, "ended the stream before .* send the job again"),
        ("fault=refuses", InvalidInput, "status 400: the prompt is too long"),
    ],
)
def test_a_misbehaving_engine_fails_the_job(
    engine: RunningEngine, prompt: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        engine.chat(prompt)
    # The engine and its other jobs are not affected.
    assert engine.chat("tokens=1 next")[1]
    assert not engine.loading.reasons


def test_a_flood_without_a_stream_is_bounded(engine: RunningEngine) -> None:
    with pytest.raises(InferenceFailed, match="ask for fewer tokens"):
        engine.chat("fault=floods", is_streaming=False)


@pytest.mark.parametrize("is_streaming", [True, False])
def test_an_engine_that_dies_gives_its_jobs_back(engine: RunningEngine, is_streaming: bool) -> None:
    with pytest.raises(EngineLost, match="the engine died") as lost:
        engine.chat("fault=dies-in-stream", is_streaming=is_streaming)
    assert lost.value.is_crash
    # The prompt, which the engine has printed, is not for other callers.
    until(lambda: engine.loading.reasons == ["the engine ended with exit code 3"])
    assert "answering fault=dies" in engine.server.last_lines
    with pytest.raises(EngineLost, match="ended before the job") as refused:
        engine.chat("next")
    assert not refused.value.has_started


def test_a_killed_engine_is_no_crash(engine: RunningEngine) -> None:
    _, child = engine_processes(engine.server)[:2]
    child.kill()
    engine.server.wait_for_end(10)
    assert engine.server.was_killed


def test_a_cancelled_job_frees_its_place(engine: RunningEngine) -> None:
    async def measure() -> float:
        context = RecordingContext("chat.completions", is_streaming=True)
        body = {"messages": [{"role": "user", "content": "fault=hangs"}]}
        task = asyncio.create_task(
            engine.infer(json.dumps(body).encode(), context, parameters={})  # type: ignore[arg-type]
        )
        await context.has_chunks.wait()
        begun = time.monotonic()
        task.cancel()
        while await asyncio.to_thread(engine.open_count):
            pass
        return time.monotonic() - begun

    seconds = sorted(engine.loop.run_until_complete(measure()) for _ in range(20))
    sys.stdout.write(f"place free after: p50 {seconds[10]:.3f} s, p95 {seconds[18]:.3f} s\n")
    assert seconds[18] < 0.5


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (f"{COMMAND} --fault dies-at-start", "exit code 1 before .*: the engine finds no GPU"),
        (f"{COMMAND} --fault never-healthy", "GET /health .* not return 200 after 2 s; correct"),
        ("no-such-program {port}", "exit code 127 .*no-such-program cannot be started"),
        ("vllm serve m", r"options.command has no \{port\}"),
        ("'vllm", "options.command cannot be read"),
    ],
)
def test_an_engine_that_cannot_start_is_reported(command: str, text: str) -> None:
    with pytest.raises(EngineFailed, match=text):
        Infer(LOADING, command=command, start_seconds=2.0)


def test_a_shutdown_interrupts_the_start() -> None:
    checks = iter([False, True])
    with pytest.raises(LoadInterrupted):
        Infer(LoadProgress("chat", lambda: next(checks)), command=COMMAND)


def test_a_stopped_engine_leaves_no_process() -> None:
    script = "import subprocess; subprocess.run(['sleep', '300'])"
    command = f"{sys.executable} -c {shlex.quote(script)}"
    server = EngineServer(f"{command} {{port}}")
    until(lambda: len(engine_processes(server)) >= 3)
    found = engine_processes(server)
    server.stop()
    until(lambda: not any(is_alive(each) for each in found))


def test_a_killed_worker_leaves_no_engine(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from worker.processes.engine_server import EngineServer\n"
        "server = EngineServer(sys.argv[1])\n"
        "print(server._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    guard = psutil.Process(int(worker.stdout.readline()))
    until(lambda: bool(guard.children()))
    found = [guard, *guard.children()]
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    until(lambda: not any(is_alive(each) for each in found))


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_secrets_are_not_passed_and_not_shown() -> None:
    environ = {"PATH": "/bin", "SERVICE_BUS": "Endpoint=x", "HF_TOKEN": "hf_abcdefgh", "HOME": "/"}
    assert "SERVICE_BUS" not in engine_environment(environ)
    assert engine_environment(environ)["HF_TOKEN"] == "hf_abcdefgh"
    server = EngineServer("sh -c 'echo key $HF_TOKEN {port}'", environ=environ)
    server.wait_for_end(10)
    server.stop()
    assert server.last_lines.startswith("key *** ")


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    st.data(),
)
@example(["a", ""], None)
def test_events_are_read_in_any_pieces(texts: list[str], data: Any) -> None:
    stream = b"".join(f": comment\r\nevent: x\ndata: {text}\n\n".encode() for text in texts)
    cuts = [] if data is None else data.draw(st.lists(st.integers(0, len(stream)), max_size=5))
    places = [0, *sorted(cuts), len(stream)]
    reader = EventReader()
    pieces = (stream[a:b] for a, b in itertools.pairwise(places))
    assert [found for piece in pieces for found in reader.feed(piece)] == texts


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(InferenceFailed, match="a line of more than"):
        list(EventReader().feed(b"data: " + b"x" * MAX_EVENT_BYTES))


def test_tool_calls_are_joined() -> None:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
    answer = assemble(
        "chat.completions",
        [
            chunk({"role": "assistant", "content": None, "tool_calls": [call]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}),
            chunk({}, "tool_calls"),
        ],
    )
    (choice,) = answer["choices"]
    (joined,) = choice["message"]["tool_calls"]
    assert joined["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert choice["finish_reason"] == "tool_calls"
    assert text_of(answer) == ""
