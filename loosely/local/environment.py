"""Find the repository, and build the environment variables that all components share."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loosely.local.errors import RepositoryMissing

#: Files that every clone of the repository contains.
_LANDMARKS = ("functions/contract/models.toml", "worker/__init__.py", "emulator/__init__.py")


def read_environment() -> dict[str, str]:
    """Return the environment variables of this process."""
    return dict(os.environ)


def shared_environment(root: Path, user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that all components receive.

    The result includes all variables of the user, for example ``WORKER_*`` and ``TORCH_THREADS``,
    which the worker reads. A variable that is set for one component replaces the shared variable
    with the same name.

    Args:
        root: The repository's root directory.
        user: The environment variables with which the user called `loosely`.
    """
    paths = [str(root / "functions"), str(root), user.get("PYTHONPATH", "")]
    # The components connect to each other on loopback, which a proxy cannot reach.
    direct = [user.get("NO_PROXY") or user.get("no_proxy") or "", "127.0.0.1", "localhost"]
    no_proxy = ",".join(filter(None, direct))
    return {
        **user,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def read_setting(name: str, root: Path, user: Mapping[str, str]) -> str:
    """Return the value that the gateway will read for a setting; empty if it is not set.

    The environment takes precedence over ``functions/local.settings.json``. If that file is
    invalid, the result is empty, because the Functions host reports the error.

    Args:
        name: The name of the setting.
        root: The repository's root directory.
        user: The environment variables with which the user called `loosely`.
    """
    value: Any = user.get(name)
    if value is None:
        try:
            text = (root / "functions" / "local.settings.json").read_text(encoding="utf-8-sig")
            value = json.loads(text)["Values"][name]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
    return value if isinstance(value, str) else ""


def read_cors_origins(root: Path, user: Mapping[str, str]) -> tuple[str, ...]:
    """Return the allowed origins that the gateway will read from its setting ``CORS_ORIGINS``.

    `read_setting` describes the arguments.
    """
    value = read_setting("CORS_ORIGINS", root, user)
    return tuple(origin.strip() for origin in value.split(",") if origin.strip())


def find_root(current: Path, package: Path = Path(__file__).parents[1]) -> Path:
    """Return the root directory of the repository that contains ``package``.

    If no repository contains ``package``, return the root directory of the repository that contains
    ``current``.

    Raises:
        RepositoryMissing: Neither path is in a repository. For example, only the client is
            installed.
    """
    for candidate in _candidates(current, package):
        if all((candidate / landmark).is_file() for landmark in _LANDMARKS):
            return candidate
    raise RepositoryMissing(
        f"neither {package.parent} nor {current} is in a clone of the Loosely repository\n"
        "this command runs the gateway and the worker from their source: "
        "run it in a clone of the repository"
    )


def _candidates(current: Path, package: Path) -> Iterator[Path]:
    yield package.resolve().parent
    yield current.resolve()
    yield from current.resolve().parents
