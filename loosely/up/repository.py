"""Where the parts' code lies."""

from collections.abc import Iterator
from pathlib import Path

from loosely.up.errors import RepositoryMissing

_LANDMARKS = ("functions/contract/models.toml", "worker/__init__.py", "emulator/__init__.py")


def find_root(current: Path, package: Path = Path(__file__).parents[1]) -> Path:
    """Return the repository's root: around this package, else at or above ``current``.

    Raises:
        RepositoryMissing: neither is in a repository, as when only the client is installed.
    """
    for candidate in _candidates(current, package):
        if all((candidate / landmark).is_file() for landmark in _LANDMARKS):
            return candidate
    raise RepositoryMissing(
        f"no Loosely repository around {package} or {current}\n"
        "`loosely up` starts the gateway and the worker from their source: "
        "run it inside a clone of the repository"
    )


def _candidates(current: Path, package: Path) -> Iterator[Path]:
    yield package.resolve().parent
    yield current.resolve()
    yield from current.resolve().parents
