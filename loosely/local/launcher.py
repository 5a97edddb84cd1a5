"""Start a component's process so that the process ends when the supervisor ends."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loosely.local import child
from loosely.local.errors import PreparationFailed
from loosely.local.logs import PartLog
from loosely.local.parts import Part, Preparation
from loosely.local.reaper import Reaper, kill_group

_PREPARATION_TIMEOUT_SECONDS = 30.0


class Launcher:
    """Starts the components' processes, all in one working directory and with shared variables."""

    def __init__(self, directory: Path, environment: Mapping[str, str], reaper: Reaper) -> None:
        """Create a launcher.

        Args:
            directory: The working directory of the components.
            environment: The environment variables that all components share.
            reaper: Kills the components' processes if this process dies.
        """
        self._directory = directory
        self._environment = environment
        self._reaper = reaper

    async def launch(self, part: Part, log: PartLog) -> Process:
        """Start the process of ``part``, and write its output to ``log``.

        This method must run in the main thread. If another thread starts the process, the kernel
        kills the process when that thread ends.
        """
        output = log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *_wrap(part.command),
                cwd=self._directory,
                env={**self._environment, **part.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal must reach only the supervisor, which stops the components
                # in order.
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._reaper.watch(process.pid)
        return process

    def clean_up(self, process: Process) -> None:
        """Kill the child processes of a component that has ended.

        A remaining child process might keep a port open or a file locked.
        """
        kill_group(process.pid)
        self._reaper.forget(process.pid)

    async def prepare(self, part: Part, preparation: Preparation) -> None:
        """Run the command that makes a file for ``part``.

        Raises:
            PreparationFailed: The command failed or took too long, or its output cannot be stored.
        """
        command = _describe(preparation.command)
        process = await asyncio.create_subprocess_exec(
            *_wrap(preparation.command),
            cwd=self._directory,
            env={**self._environment, **part.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_PREPARATION_TIMEOUT_SECONDS):
                output, errors = await process.communicate()
        except TimeoutError:
            raise PreparationFailed(
                f"{part.name}: `{command}` has not ended after {_PREPARATION_TIMEOUT_SECONDS:.0f} s"
            ) from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode != 0:
            raise PreparationFailed(
                f"{part.name}: `{command}` failed:\n" + errors.decode("utf-8", "replace").strip()
            )
        try:
            _store(preparation.output, output)
        except OSError as error:
            raise PreparationFailed(
                f"{part.name}: {preparation.output} cannot be written: {error.strerror}"
            ) from error


def _store(path: Path, content: bytes) -> None:
    """Write a file, but only if the content has changed.

    Therefore `loosely up` also starts on a full disk if the content is the same as before.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _wrap(command: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command)


def _describe(command: tuple[str, ...]) -> str:
    return " ".join(("python" if word == sys.executable else word) for word in command)
