"""Start a component's process so that the process ends when the supervisor ends."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from loosely.local import child
from loosely.local.errors import PreparationFailed
from loosely.local.logs import PartLog
from loosely.local.parts import Part, Preparation
from loosely.local.reaper import Reaper, kill_group

_PREPARATION_TIMEOUT_SECONDS = 30.0


class Launcher:
    """Starts the processes of the components in one working directory, with shared variables."""

    def __init__(self, directory: Path, environment: Mapping[str, str], reaper: Reaper) -> None:
        """Create a launcher. The reaper kills the components' processes if this process dies."""
        self._directory = directory
        self._environment = environment
        self._reaper = reaper
        self._preparing: dict[Preparation, asyncio.Task[None]] = {}

    async def launch(self, part: Part, log: PartLog) -> Process:
        """Start the process of ``part``, whose output goes to ``log``.

        Only for the main thread: the kernel kills the process with the thread that started it.
        """
        output = log.open()
        try:
            wrapper = (sys.executable, "-I", "-S", child.__file__, str(os.getpid()))
            process = await self._start(part, (*wrapper, *part.command), output)
        finally:
            os.close(output)
        self._reaper.watch(process.pid)
        return process

    async def _start(self, part: Part, command: tuple[str, ...], output: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=self._directory,
            env={**self._environment, **part.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C must reach only the supervisor, which stops the components in order.
            start_new_session=True,
        )

    def clean_up(self, process: Process) -> None:
        """Kill the children of a component that has ended: one might hold a port or a lock."""
        kill_group(process.pid)
        self._reaper.forget(process.pid)

    async def prepare(self, part: Part, preparation: Preparation) -> None:
        """Run the command that makes files for ``part``, and store the catalogue that it checked.

        Components that start at the same time share one run. Raises PreparationFailed if the
        command fails or takes too long, or a file cannot be used.
        """
        running = self._preparing.get(preparation)
        if running is None:
            running = asyncio.create_task(self._prepare(part, preparation))
            self._preparing[preparation] = running
            running.add_done_callback(lambda _: self._preparing.pop(preparation))
        await asyncio.shield(running)

    async def _prepare(self, part: Part, preparation: Preparation) -> None:
        command = " ".join(preparation.command).replace(sys.executable, "python", 1)
        catalogue, content = preparation.catalogue, b""
        if catalogue is not None:
            with _reporting(part, catalogue, "read"):
                content = catalogue.read_bytes()
            with _reporting(part, preparation.temporary, "written"):
                store_file(preparation.temporary, content, is_derived=True)
        process = await self._start(part, preparation.command, asyncio.subprocess.PIPE)
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
            text = errors.decode("utf-8", "replace").strip()
            if catalogue is not None:
                text = text.replace(str(preparation.temporary), str(catalogue))
                raise PreparationFailed(f"{part.name}: {catalogue}: {text}")
            raise PreparationFailed(f"{part.name}: `{command}` failed:\n{text}")
        if catalogue is not None:
            with _reporting(part, preparation.checked, "written"):
                store_file(preparation.checked, content, is_derived=True)
        for path, content in preparation.read_contents(output).items():
            with _reporting(part, path, "written"):
                store_file(path, content, is_derived=True)


@contextmanager
def _reporting(part: Part, path: Path, action: str) -> Iterator[None]:
    """Raise PreparationFailed if the ``with`` block raises OSError."""
    try:
        yield
    except OSError as error:
        raise PreparationFailed(
            f"{part.name}: {path} cannot be {action}: {error.strerror}"
        ) from error


def store_file(path: Path, content: bytes, *, is_derived: bool = False) -> None:
    """Write a file for its owner atomically, if its content changes: the disk may be full.

    A derived file is written again at each start, so nothing waits until it is on the disk.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if not is_derived:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
