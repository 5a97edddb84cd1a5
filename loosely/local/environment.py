"""The environment and the repository that all parts share."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from loosely.local.errors import RepositoryMissing

#: Files by which the repository is recognized.
_LANDMARKS = ("functions/contract/models.toml", "worker/__init__.py", "emulator/__init__.py")


def read_environment() -> dict[str, str]:
    """Return the environment variables of this process."""
    return dict(os.environ)


def shared_environment(root: Path, user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every part: the user's own, with paths to import the parts.

    So ``WORKER_*`` and ``TORCH_THREADS`` reach the worker as the user set them. Each part's own
    variables are added later and take precedence.

    Args:
        root: The repository's root.
        user: The environment in which `loosely` was called.
    """
    paths = [str(root / "functions"), str(root), user.get("PYTHONPATH", "")]
    # The parts reach one another on loopback, which a proxy cannot reach.
    direct = [user.get("NO_PROXY") or user.get("no_proxy") or "", "127.0.0.1", "localhost"]
    no_proxy = ",".join(filter(None, direct))
    return {
        **user,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def find_root(current: Path, package: Path = Path(__file__).parents[1]) -> Path:
    """Return the repository's root: around ``package``, or else at or above ``current``.

    Raises:
        RepositoryMissing: Neither is in a repository, as when only the client is installed.
    """
    for candidate in _candidates(current, package):
        if all((candidate / landmark).is_file() for landmark in _LANDMARKS):
            return candidate
    raise RepositoryMissing(
        f"no Loosely repository at {package.parent} or at or above {current}\n"
        "this command runs the gateway and the worker from their source: "
        "run it inside a clone of the repository"
    )


def _candidates(current: Path, package: Path) -> Iterator[Path]:
    yield package.resolve().parent
    yield current.resolve()
    yield from current.resolve().parents
