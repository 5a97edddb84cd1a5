"""Start an engine server as a child process, wait until it is healthy, and end it.

An engine server is a program that serves a model over HTTP, for example `vllm serve`. It listens on
a free port of the loopback interface, and never outlives the worker (see `engine_guard`).
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx

from worker.errors import EngineFailed
from worker.models import Loading

_GUARD: Final = Path(__file__).with_name("engine_guard.py")
_POLL_SECONDS: Final = 0.1
_HEALTH_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 10.0
_KEPT_LINES: Final = 20
_MAX_LINE_CHARACTERS: Final = 400

# The worker's environment has secrets, such as the connection string of Service Bus.
_PASSED: Final = re.compile(
    r"(PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|SHELL|VIRTUAL_ENV|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|REQUESTS_CA_BUNDLE"
    r"|(CUDA|NVIDIA|NCCL|VLLM|SGLANG|SGL|HF|TRANSFORMERS|TORCH|TORCHINDUCTOR|PYTORCH|TRITON"
    r"|XDG|OMP|MKL|PYTHON|SSL|LLAMA|GGML|RAY|FLASHINFER|ENGINE)_?\w*)"
)
_SECRET_NAME: Final = re.compile("TOKEN|SECRET|PASSWORD|KEY", re.IGNORECASE)
_MIN_SECRET_CHARACTERS: Final = 6

# What the log lines of engines say, and what an operator reads.
_STATES: Final = (
    (re.compile("download|fetching", re.IGNORECASE), "downloading"),
    (re.compile("loading|safetensors|checkpoint", re.IGNORECASE), "loading"),
    (re.compile("captur|warm|compil|profil|cuda graph", re.IGNORECASE), "warming up"),
)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that an engine server gets.

    Its PATH begins with the folder of this Python, in which the engine may be installed.
    """
    passed = {name: value for name, value in environ.items() if _PASSED.fullmatch(name)}
    folders = (str(Path(sys.executable).parent), environ.get("PATH", os.defpath))
    return {**passed, "PATH": os.pathsep.join(folders)}


class EngineServer:
    """A running engine server. One thread reads what it prints, and keeps the last lines."""

    def __init__(
        self,
        command: str,
        on_end: Callable[[], None] = lambda: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Start the command. `{port}` in it is the port. Raises EngineFailed.

        A thread calls `on_end` when the engine has ended, unless `stop` was called.
        """
        self._on_end = on_end
        self._is_stopped = False
        self.port = _free_port()
        self._secrets = [
            value
            for name, value in environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_CHARACTERS
        ]
        self._lines = deque[str](maxlen=_KEPT_LINES)
        self._state = "starting"
        try:
            arguments = [each.replace("{port}", str(self.port)) for each in shlex.split(command)]
        except ValueError as error:
            raise EngineFailed(f"options.command cannot be read: {error}") from None
        if not any(str(self.port) in each for each in arguments):
            raise EngineFailed("options.command has no {port}; add it, as in --port {port}")
        self._process = subprocess.Popen(  # noqa: S603 - the operator's own command
            [sys.executable, "-I", "-S", str(_GUARD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=engine_environment(environ),
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="engine-log", daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, 128 + N after signal N; None while it runs."""
        return self._process.poll()

    @property
    def was_killed(self) -> bool:
        """Whether the process was ended by SIGKILL, by an operator or for lack of memory."""
        return self.exit_code == 128 + signal.SIGKILL

    @property
    def last_lines(self) -> str:
        """The last lines that the engine has printed, without the values of secrets."""
        return " | ".join(self._lines) or "nothing"

    def wait_until_healthy(self, path: str, limit_seconds: float, loading: Loading) -> None:
        """Wait until a GET of `path` returns 200. Say meanwhile what the engine does.

        Raises:
            EngineFailed: The engine has ended, or is not healthy in this time.
            LoadInterrupted: The worker shuts down.
        """
        ends_at = time.monotonic() + limit_seconds
        with httpx.Client(base_url=self.url, timeout=_HEALTH_SECONDS, trust_env=False) as client:
            while True:
                loading.progress(f"engine: {self._state}")
                if not self.is_running:
                    self._reader.join(1.0)
                    raise EngineFailed(
                        f"the engine ended with exit code {self._process.returncode} before it was "
                        f"healthy; correct options.command; it printed: {self.last_lines}"
                    )
                try:
                    if client.get(path).status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass
                if time.monotonic() >= ends_at:
                    raise EngineFailed(
                        f"GET {path} of the engine does not return 200 after {limit_seconds:g} s; "
                        f"correct options.health, or raise options.start_seconds; it printed: "
                        f"{self.last_lines}"
                    )
                loading.wait(_POLL_SECONDS)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait at most this time for the end of the process; return whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End the engine and all processes that it has started."""
        self._is_stopped = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.wait_for_end(_STOP_SECONDS):
            self._process.kill()
            self._process.wait()
        self._reader.join(1.0)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as log:
            for line in log:
                if text := line.strip():
                    self._note_line(text)
        self._process.wait()
        if not self._is_stopped:
            self._on_end()

    def _note_line(self, text: str) -> None:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        self._lines.append(text[:_MAX_LINE_CHARACTERS])
        for pattern, state in _STATES:
            if pattern.search(text):
                self._state = state


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
