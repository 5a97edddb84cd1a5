"""The data directory: whose it is, what runs on it, and the key that is kept in it."""

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from loosely.up.errors import DataInUse

_OWNER_ONLY = 0o600
_REPLY_TOKEN_KEY_BYTES = 32


@contextmanager
def own(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against any other ``up``.

    The lock is the kernel's: it goes with this process, however that ends.

    Raises:
        DataInUse: another ``up`` holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "up.lock", os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise DataInUse(
                f"another `loosely up` (process {holder or 'unknown'}) runs on {directory}\n"
                "stop it, or give this one its own: loosely up --data DIR --port PORT"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def reply_token_key(directory: Path) -> str:
    """Return the key of the reply tokens in base64, made at the first call.

    It is kept so that replies to jobs accepted before a restart are still believed.
    """
    path = directory / "reply-token.key"
    if not path.exists():
        write_private(path, base64.b64encode(secrets.token_bytes(_REPLY_TOKEN_KEY_BYTES)).decode())
    return path.read_text("ascii").strip()


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` whole or not at all, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@dataclass(frozen=True, slots=True)
class RunningPart:
    """A part as ``up.json`` shows it."""

    pid: int
    ports: dict[str, int]
    log: str
    ready: bool


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """What ``up.json`` says while ``up`` runs."""

    pid: int
    url: str
    parts: dict[str, RunningPart]

    def write(self, directory: Path) -> None:
        """Publish this as the state of ``directory``."""
        write_private(_record(directory), json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def remove(directory: Path) -> None:
        """Say that nothing runs any more."""
        _record(directory).unlink(missing_ok=True)

    @classmethod
    def read(cls, directory: Path) -> "RunningSystem | None":
        """Return what runs on ``directory``, or ``None``: also for a record left by a kill."""
        try:
            document = json.loads(_record(directory).read_bytes())
            system = cls(
                pid=document["pid"],
                url=document["url"],
                parts={name: RunningPart(**part) for name, part in document["parts"].items()},
            )
            os.kill(system.pid, 0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return system


def _record(directory: Path) -> Path:
    return directory / "up.json"
