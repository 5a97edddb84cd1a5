"""Compute the import path of an app."""

from collections.abc import Sequence
from pathlib import Path


def app_path(folder: Path, path: Sequence[str], host_root: Path) -> list[str]:
    """Return `path` with the app's folder, then its `.python_packages`, in front.

    Entries inside `host_root`, from which the host's own code is imported, are left out.
    """
    kept = [entry for entry in path if entry and not _is_hosts_own(Path(entry), host_root)]
    installed = folder / ".python_packages" / "lib" / "site-packages"
    return [str(folder), *([str(installed)] if installed.is_dir() else []), *kept]


def _is_hosts_own(entry: Path, host_root: Path) -> bool:
    inside = entry.resolve().is_relative_to(host_root)
    return inside and not {"site-packages", "dist-packages"} & set(entry.parts)
