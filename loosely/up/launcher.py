"""Starting a part's process so that it can never outlive its supervisor."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loosely.up import child
from loosely.up.errors import PreparationFailed
from loosely.up.guard import Guard, kill_group
from loosely.up.logs import PartLog
from loosely.up.parts import Part, Preparation

_PREPARATION_TIMEOUT_SECONDS = 30.0


class Launcher:
    """Starts processes in one directory, on top of one environment."""

    def __init__(self, directory: Path, environment: Mapping[str, str], guard: Guard) -> None:
        """``environment`` is what parts get besides their own."""
        self._directory = directory
        self._environment = environment
        self._guard = guard

    async def launch(self, part: Part, log: PartLog) -> Process:
        """Start ``part``, a session leader whose output goes to ``log``.

        Must be called from the main thread: the kernel ties the part to the thread that
        forks it.
        """
        output = log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *_tied(part.command),
                cwd=self._directory,
                env={**self._environment, **part.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is for the supervisor, which stops parts in order.
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._guard.watch(process.pid)
        return process

    def clear(self, process: Process) -> None:
        """End what an ended part has left running, lest it hold ports or files."""
        kill_group(process.pid)
        self._guard.forget(process.pid)

    async def prepare(self, part: Part, preparation: Preparation) -> None:
        """Make the file that ``part`` reads.

        Raises:
            PreparationFailed: the command failed or took too long.
        """
        process = await asyncio.create_subprocess_exec(
            *_tied(preparation.command),
            cwd=self._directory,
            env={**self._environment, **part.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_PREPARATION_TIMEOUT_SECONDS):
                output, complaint = await process.communicate()
        except TimeoutError:
            raise PreparationFailed(
                f"{part.name}: `{_shown(preparation.command)}` did not end in "
                f"{_PREPARATION_TIMEOUT_SECONDS:.0f} s"
            ) from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode != 0:
            raise PreparationFailed(
                f"{part.name}: `{_shown(preparation.command)}` failed:\n"
                + complaint.decode("utf-8", "replace").strip()
            )
        preparation.output.parent.mkdir(parents=True, exist_ok=True)
        preparation.output.write_bytes(output)


def _tied(command: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command)


def _shown(command: tuple[str, ...]) -> str:
    return " ".join(("python" if word == sys.executable else word) for word in command)
