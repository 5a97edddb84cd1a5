"""The Function App as it is published, in a folder to look at and to run.

`python -m infra.package [FOLDER]` (by `./dev package`) copies functions/ without what .funcignore
and Core Tools leave out, and prints how large it is. Core Tools and azd do the same by themselves.
"""

import argparse
import io
import shutil
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
APP = ROOT / "functions"
DEFAULT = ROOT / "infra" / "build" / "functions"

# Core Tools never publish these.
_ALWAYS_LEFT_OUT = (".funcignore", ".gitignore", "local.settings.json")


def left_out(app: Path) -> tuple[str, ...]:
    """The patterns of names that are not published.

    ValueError for more than names: paths and exceptions would need all of Git's rules.
    """
    lines = (app / ".funcignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if unclear := [pattern for pattern in patterns if "/" in pattern or pattern[0] == "!"]:
        raise ValueError(f".funcignore: expected patterns of names alone, found {unclear[0]}")
    return (*patterns, *_ALWAYS_LEFT_OUT)


def published(app: Path) -> list[Path]:
    """The files that are published, as paths in the app."""
    patterns = left_out(app)
    files = (path.relative_to(app) for path in sorted(app.rglob("*")) if path.is_file())
    return [
        file
        for file in files
        if not any(fnmatch(part, pattern) for part in file.parts for pattern in patterns)
    ]


def build(target: Path, app: Path = APP) -> list[Path]:
    """Copy them into a folder, which holds nothing else afterwards; their paths in it."""
    shutil.rmtree(target, ignore_errors=True)
    files = published(app)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(app / file, target / file)
    return files


def _zipped_bytes(target: Path, files: list[Path]) -> int:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as package:
        for file in files:
            package.write(target / file, file)
    return len(archive.getvalue())


def main() -> int:
    """Build it and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m infra.package", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    target: Path = parser.parse_args().folder
    if target.exists() and any(target.iterdir()) and not (target / "host.json").is_file():
        sys.stderr.write(f"{target} holds something else: name an empty folder\n")
        return 2
    files = build(target)
    size = sum((target / file).stat().st_size for file in files)
    sys.stdout.write(
        f"{target}: {len(files)} files, {size / 1024:.0f} KiB,"
        f" {_zipped_bytes(target, files) / 1024:.0f} KiB zipped; the build adds requirements.txt\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
