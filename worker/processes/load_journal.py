"""Keep notes of the models that are being loaded, to find out which load has killed a process.

The code of a model's author may crash the process, call `os._exit`, or use all memory. So the
worker notes each load in a file and keeps it locked. When the process dies, the operating system
releases the lock, and the next process finds the note. The models in such notes are suspects: the
next process loads them first, one after another, and receives no jobs meanwhile. A model whose load
has killed several processes in a row is set aside: it is loaded again only after a delay, while the
other models are served. The notes are files, because the memory limit of a container may kill the
parent process, too.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.processes.lock_journal import SUFFIX, read_slots

_log = logging.getLogger(__name__)

MAX_DEATHS: Final = 3
"""A model is set aside after its load has killed this many processes in a row.

One death is not enough, because the process may have been killed for another reason while it loaded
the model.
"""

LONGEST_HOLD_SECONDS: Final = 30.0
"""The longest time in seconds for which other models wait while the suspects are loaded."""

_FIRST_PAUSE_SECONDS: Final = 300.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = 0.5
_LOADING: Final = ".loading"
_DEATHS: Final = ".deaths"


@dataclass(frozen=True, slots=True)
class KilledLoads:
    """How many processes in a row died while they loaded a model, and the delay before the next."""

    death_count: int
    pause_seconds: float


def import_name(module: str) -> str:
    """Return the name under which the import of a model's module is noted, apart from its load."""
    return f"import {module}"


class LoadJournal:
    """Writes a note about each model that this process is loading, for later processes.

    Each `name` is that of a model, or what `import_name` returns for its module. Any thread may
    call the methods.
    """

    def __init__(
        self,
        lock_folder: Path | None,
        clock: Callable[[], float] = time.time,
        hold_seconds: float = LONGEST_HOLD_SECONDS,
    ) -> None:
        """Store the settings.

        `lock_folder` is that of the lock journals; None if loads are not noted. `clock` returns the
        time since 1970. Other models wait for suspects for at most `hold_seconds`.
        """
        self._lock_folder = lock_folder
        self._folder = None if lock_folder is None else lock_folder / "loads"
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._hold_ends_at = 0.0
        self._changed = threading.Condition()
        self.suspects: set[str] = set()
        """The names of the models that are loaded first. Their load may have killed a process."""
        self._one_by_one = threading.Lock()

    def take_over_notes(self, models: Collection[str] = ()) -> None:
        """Count the deaths of processes during loads, and find the suspects among `models`."""
        if self._folder is None:
            return
        for process, names in self._take_notes(self._folder).items():
            is_certain = len(names) == 1 and not self._held_jobs(process)
            for name in names:
                self._count_death(name, is_certain=is_certain)
        killed = {name: self.killed_loads(name) for name in models}
        with self._changed:
            self.suspects = {
                name
                for name, found in killed.items()
                if found.death_count and not found.pause_seconds
            }
            self._hold_ends_at = time.monotonic() + self._hold_seconds

    def killed_loads(self, name: str) -> KilledLoads:
        """Return how many loads of a model killed a process, and the delay before the next load."""
        count, last_at = self._read(name)
        if count < MAX_DEATHS:
            return KilledLoads(count, 0.0)
        doublings = min(count - MAX_DEATHS, 32)
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2**doublings, _LONGEST_PAUSE_SECONDS)
        # The system clock may have been set back.
        left_seconds = min(last_at + pause_seconds - self._clock(), pause_seconds)
        return KilledLoads(count, max(left_seconds, 0.0))

    @property
    def is_holding(self) -> bool:
        """Whether jobs and other models must wait until the suspects are loaded."""
        return bool(self.suspects) and time.monotonic() < self._hold_ends_at

    def is_loading(self, process: int) -> bool:
        """Return whether the process with this id has noted that it loads or imports a model."""
        return self._folder is not None and any(self._folder.glob(f"*-{process}-*{_LOADING}"))

    def wait_for_suspects(self, name: str, stopping: threading.Event) -> None:
        """Wait until the suspects are loaded, unless `name` is one. Return if `stopping` is set."""
        with self._changed:
            while self.is_holding and name not in self.suspects and not stopping.is_set():
                self._changed.wait(_POLL_SECONDS)

    @contextlib.contextmanager
    def noting_load(self, name: str) -> Iterator[None]:
        """Note during the `with` block that a model is loaded. Suspects wait for each other."""
        if self._folder is None:
            yield
            return
        is_suspect = name in self.suspects
        with self._one_by_one if is_suspect else contextlib.nullcontext(), self._noted(name):
            yield

    def end_load(self, name: str, *, has_succeeded: bool) -> None:
        """Record that a load has ended. If it has succeeded, the deaths of the model become 0."""
        with self._changed:
            self.suspects.discard(name)
            self._changed.notify_all()
        if has_succeeded and self._folder is not None:
            with contextlib.suppress(OSError):
                self._path(name, _DEATHS).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        path = self._path(name, f"-{os.getpid()}-{uuid.uuid4().hex[:8]}{_LOADING}")
        try:
            descriptor = self._note(path, name)
        except OSError as error:
            # The disk may be full. Load the model without a note.
            _log.warning(
                "the load journal cannot record that %s is being loaded: %s; if the load kills "
                "this process, this crash is not counted",
                name,
                error,
            )
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def _note(self, path: Path, name: str) -> int:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The file gets its final name only after it is locked. So no other process takes it over.
        draft = path.with_suffix(".draft")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # This lock belongs only to this process. Its child processes do not inherit the lock.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, name.encode())
            draft.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor

    def _take_notes(self, folder: Path) -> dict[str, list[str]]:
        """Remove the notes of dead processes, and return the names in them by process id."""
        names: dict[str, list[str]] = defaultdict(list)
        for path in sorted(folder.glob(f"*{_LOADING}")):
            # Another worker that starts at the same time may have removed the file.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the process runs
                path.unlink()
                names[path.name.split("-")[1]].append(file.read().decode("utf-8", "replace"))
        return names

    def _held_jobs(self, process: str) -> bool:
        """Return whether a process held a message lock when it died.

        Then a job may be the cause. Call this before this process takes over the lock journals.
        """
        assert self._lock_folder is not None
        for path in self._lock_folder.glob(f"*-{process}-*{SUFFIX}"):
            with contextlib.suppress(OSError):
                if read_slots(path.read_bytes()):
                    return True
        return False

    def _count_death(self, name: str, *, is_certain: bool) -> None:
        """Count the death of a process during a model's load, less if the cause is unknown."""
        count = self._read(name)[0]
        count = count + 1 if is_certain or count >= MAX_DEATHS else max(count, 1)
        _log.error(
            "a process died while it loaded %s%s",
            *(
                name,
                f"; number of deaths in a row: {count}"
                if is_certain
                else "; the cause is not certain",
            ),
        )
        path = self._path(name, _DEATHS)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps({"name": name, "count": count, "at": self._clock()}))
            draft.replace(path)
        except OSError as error:
            _log.warning(
                "the load journal cannot record that a process died during the load of %s: %s",
                name,
                error,
            )

    def _read(self, name: str) -> tuple[int, float]:
        """Return how many deaths are counted for a model, and the time of the last one."""
        if self._folder is None:
            return 0, 0.0
        try:
            document = json.loads(self._path(name, _DEATHS).read_text())
            return int(document["count"]), float(document["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0.0

    def _path(self, name: str, suffix: str) -> Path:
        assert self._folder is not None
        # A hash, because the name of a model or a module may not be valid as the name of a file.
        return self._folder / (hashlib.sha256(name.encode()).hexdigest()[:32] + suffix)
