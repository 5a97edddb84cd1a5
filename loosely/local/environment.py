"""Find the source of the components, and build the environment variables that they share."""

import json
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loosely.local.errors import ExtraMissing

_PACKAGE = Path(__file__).parents[1]
#: Packages that only the extra `local` installs.
_LOCAL_PACKAGES = ("fastapi", "uvicorn", "PIL")


def read_environment() -> dict[str, str]:
    """Return the environment variables of this process."""
    return dict(os.environ)


def shared_environment(
    root: Path, user: Mapping[str, str], models: Path | None = None
) -> dict[str, str]:
    """Return the environment variables that all components receive: the user's, and some of ours.

    Modules of models are found in ``models``, besides ``root``.
    """
    paths = [str(root / "functions"), str(root)]
    if models is not None and models != root:
        paths.append(str(models))
    paths.append(user.get("PYTHONPATH", ""))
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
    """Return the value that the gateway will read for a setting, or an empty string if unset."""
    value: Any = user.get(name)
    if value is None:
        try:
            text = (root / "functions" / "local.settings.json").read_text(encoding="utf-8-sig")
            value = json.loads(text)["Values"][name]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
    return value if isinstance(value, str) else ""


def read_cors_origins(root: Path, user: Mapping[str, str]) -> tuple[str, ...]:
    """Return the allowed origins that the gateway will read from its setting ``CORS_ORIGINS``."""
    value = read_setting("CORS_ORIGINS", root, user)
    return tuple(origin.strip() for origin in value.split(",") if origin.strip())


def find_root(package: Path = _PACKAGE) -> Path:
    """Return the directory with the components: the clone, or `loosely/system` of a wheel."""
    packaged = package.resolve() / "system"
    return packaged if packaged.is_dir() else packaged.parents[1]


def check_requirements(packages: Iterable[str] = _LOCAL_PACKAGES) -> None:
    """Raise ExtraMissing unless the packages of gateway, worker and emulator are installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"this command runs the gateway and the worker, but their package {missing[0]} is not "
            "installed: install all packages that they need with `pip install 'loosely[local]'`"
        )
