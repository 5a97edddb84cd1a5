"""The data directory of `loosely up`: its lock, the generated keys, and the file `up.json`."""

import base64
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loosely.local import events
from loosely.local.errors import DataDirectoryInUse, DataDirectoryUnusable
from loosely.local.launcher import store_file
from loosely.local.parts import SERVICE_BUS_POLICIES_FILE, SERVICE_BUS_RIGHTS, Part

_OTHER_DIRECTORY = "data-directory"
_STATE_FILE = "up.json"
_OWNER_ONLY = 0o600
_OTHERS = 0o077
_KEY_BYTES = 32
# The local services use the same limit. With less free space, they cannot store a job.
_MIN_FREE_BYTES = 256 * 1024


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Keep ``directory`` locked for this `loosely up`. The lock ends with a killed process."""
    with _reporting(directory):
        _make_private(directory)
        descriptor = os.open(directory / "up.lock", os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise DataDirectoryInUse(
                f"another `loosely up` (process {owner or 'unknown'}) uses {directory}\n"
                "stop it, or use another directory: loosely up --data DIR --port PORT"
            ) from None
        with _reporting(directory):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _make_private(directory: Path) -> None:
    """Create a directory for its owner only, or restrict one that is not shared as /tmp is."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = directory.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        directory.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def reply_token_key(directory: Path) -> str:
    """Return the key that signs reply tokens, stored for replies to jobs before a restart."""
    path = directory / "reply-token.key"
    with _reporting(directory):
        if not path.exists():
            store_file(path, _random_key().encode())
        return path.read_text("ascii").strip()


def broker_password(directory: Path) -> str:
    """Return the password of RabbitMQ or Redis, stored because RabbitMQ remembers it."""
    path = directory / "broker-password.key"
    with _reporting(directory):
        if not path.exists():
            store_file(path, secrets.token_urlsafe(24).encode())
        return path.read_text("ascii").strip()


def service_bus_keys(directory: Path) -> dict[str, str]:
    """Return the keys of the policies in `SERVICE_BUS_RIGHTS`, stored in a file for Service Bus.

    A key that the file lacks, for example because it is damaged, is created again.
    """
    path = directory / SERVICE_BUS_POLICIES_FILE
    with _reporting(directory):
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        stored = _read_policy_keys(text)
        keys = {name: stored.get(name) or _random_key() for name in SERVICE_BUS_RIGHTS}
        rules = [
            {"Name": name, "Rights": list(rights), "PrimaryKey": keys[name]}
            for name, rights in SERVICE_BUS_RIGHTS.items()
        ]
        document = json.dumps({"AuthorizationRules": rules}, indent=2)
        store_file(path, f"{document}\n".encode())
    return keys


def _read_policy_keys(text: str) -> dict[str, str]:
    try:
        rules = json.loads(text)["AuthorizationRules"]
        keys = {rule["Name"]: rule["PrimaryKey"] for rule in rules}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return {name: key for name, key in keys.items() if isinstance(key, str)}


def copy_catalogue(catalogue: Path, copy: Path) -> None:
    """Copy the user's model catalogue, if it exists, to the file that the components read."""
    with _reporting(copy.parent):
        if catalogue.is_file():
            store_file(copy, catalogue.read_bytes(), is_derived=True)


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def find_disk_problem(directory: Path) -> str:
    """Return why ``directory`` cannot be written, or an empty string. Nothing is written."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return f"{directory} cannot be read: {error.strerror}"
    free_bytes = disk.f_bavail * disk.f_frsize
    # Some file systems report no blocks at all.
    if disk.f_blocks and free_bytes < _MIN_FREE_BYTES:
        return f"the disk of {directory} is full: {free_bytes} bytes are free"
    return ""


@contextmanager
def _reporting(directory: Path) -> Iterator[None]:
    """Raise DataDirectoryUnusable if the ``with`` block raises OSError."""
    try:
        yield
    except OSError as error:
        raise DataDirectoryUnusable(
            f"the data directory {directory} cannot be used: {error.strerror or error}\n"
            "make sure that the directory is writable and its disk is not full, or use another "
            "directory: loosely up --data DIR"
        ) from error


@dataclass(frozen=True, slots=True)
class RunningPart:
    """A component of the running system, as the file `up.json` describes it."""

    pid: int
    ports: dict[str, int]
    log: str
    ready: bool


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """A running system, as the file `up.json` in its data directory describes it."""

    pid: int
    url: str
    parts: dict[str, RunningPart]

    def write(self, directory: Path) -> None:
        """Write this description to the file `up.json` in ``directory``."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        store_file(directory / _STATE_FILE, text.encode(), is_derived=True)

    @staticmethod
    def remove(directory: Path) -> None:
        """Delete the file `up.json` if it exists. The caller must ensure that no component runs."""
        # If the disk is read-only, the file stays. It names a process that has ended.
        with suppress(OSError):
            (directory / _STATE_FILE).unlink(missing_ok=True)

    @classmethod
    def find(cls, directory: Path) -> "RunningSystem | None":
        """Return the running system of the model folder with this data directory, or ``None``."""
        return cls.read(find_used_directory(directory))

    @classmethod
    def read(cls, directory: Path) -> "RunningSystem | None":
        """Return the system with this data directory, or ``None`` if no system runs."""
        try:
            document = json.loads((directory / _STATE_FILE).read_bytes())
            system = cls(
                pid=document["pid"],
                url=document["url"],
                parts={name: RunningPart(**part) for name, part in document["parts"].items()},
            )
            os.kill(system.pid, 0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return system


def note_data_directory(directory: Path, used: Path) -> None:
    """Note the directory that `loosely up --data` uses. Other commands find the system by it."""
    if used != directory:
        with suppress(OSError):
            _make_private(directory)
            store_file(directory / _OTHER_DIRECTORY, f"{used}\n".encode())


def find_used_directory(directory: Path) -> Path:
    """Return ``directory``, or the noted one unless a system runs in ``directory``."""
    if RunningSystem.read(directory) is None:
        with suppress(OSError, ValueError):
            other = Path((directory / _OTHER_DIRECTORY).read_text("utf-8").strip())
            if other.is_dir():
                return other
    return directory


class StateWriter:
    """Updates `up.json` when a component's state changes, after all have been started.

    If the file cannot be written, `problem` says why, and the next call tries again.
    """

    def __init__(self, directory: Path, logs: Path, url: str, parts: Sequence[Part]) -> None:
        """Create a writer. ``parts`` are started first; workers of a pool come later."""
        self._directory = directory
        self._logs = logs
        self._url = url
        self._order = {part.name: index for index, part in enumerate(parts)}
        self._parts: dict[str, RunningPart] = {}
        self._is_complete = False
        self._is_written = True
        #: Why the file is not up to date; an empty string if the file is up to date.
        self.problem = ""

    def apply(self, event: events.PartEvent) -> None:
        """Update the file `up.json` if ``event`` changes the state of a component."""
        part = event.part
        match event:
            case events.PartStarted(_, pid):
                log = str(self._logs / f"{part.name}.log")
                self._parts[part.name] = RunningPart(pid, dict(part.ports), log, ready=False)
            case events.PartReady():
                self._set_ready(part, is_ready=True)
            case events.PartDied() | events.PartHalted() | events.PartStopping():
                self._set_ready(part, is_ready=False)
            case events.PartStopped():
                self._parts.pop(part.name, None)
            case _:
                return
        self._is_complete = self._is_complete or self._order.keys() <= self._parts.keys()
        self._is_written = not self._is_complete
        self.write()

    def write(self) -> None:
        """Write the file `up.json` if it is not up to date."""
        if self._is_written:
            return
        # Keep the order of the table of components, not the order in which the processes started.
        names = sorted(self._parts, key=lambda name: self._order.get(name, len(self._order)))
        parts = {name: self._parts[name] for name in names}
        try:
            RunningSystem(os.getpid(), self._url, parts).write(self._directory)
        except OSError as error:
            self.problem = f"{self._directory / _STATE_FILE} cannot be written: {error.strerror}"
        else:
            self._is_written, self.problem = True, ""

    def _set_ready(self, part: Part, *, is_ready: bool) -> None:
        if part.name in self._parts:
            self._parts[part.name] = replace(self._parts[part.name], ready=is_ready)
