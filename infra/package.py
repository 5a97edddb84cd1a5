"""Build the Function App's package, which contains the files that are published to Azure.

`python -m infra.package [FOLDER]` (`./dev package`) copies functions/ to the folder, without the
files that .funcignore and Core Tools exclude, and prints the size. Core Tools and azd select the
same files when they publish. The folder is only for inspecting and running the package.

requirements.txt is the lock that `./dev lock` wrote. The platform's build installs it with pip,
which checks the hash of each file.
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

# Core Tools never publish these files.
_ALWAYS_EXCLUDED = (".funcignore", ".gitignore", "local.settings.json")


def read_exclusions(app: Path) -> tuple[str, ...]:
    """Return the name patterns of the files and folders that are not published.

    Raises ValueError if a pattern in .funcignore contains `/` or begins with `!`, because such
    patterns are not supported.
    """
    lines = (app / ".funcignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if unclear := [pattern for pattern in patterns if "/" in pattern or pattern[0] == "!"]:
        raise ValueError(
            ".funcignore: expected a pattern that contains no / and does not begin with !, "
            f"found {unclear[0]}"
        )
    return (*patterns, *_ALWAYS_EXCLUDED)


def list_published(app: Path) -> list[Path]:
    """Return the files that are published, as paths relative to the app."""
    patterns = read_exclusions(app)
    files = (path.relative_to(app) for path in sorted(app.rglob("*")) if path.is_file())
    return [
        file
        for file in files
        if not any(fnmatch(part, pattern) for part in file.parts for pattern in patterns)
    ]


def build(target: Path, app: Path = APP) -> list[Path]:
    """Delete the folder `target`, then copy the published files into a new folder `target`.

    Returns:
        The copied files, as paths relative to `target`.
    """
    shutil.rmtree(target, ignore_errors=True)
    files = list_published(app)
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
    """Build the package, and print the number and the size of its files."""
    parser = argparse.ArgumentParser(prog="python -m infra.package", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    target: Path = parser.parse_args().folder
    if target.exists() and any(target.iterdir()) and not (target / "host.json").is_file():
        sys.stderr.write(f"{target} contains other files: choose an empty folder\n")
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
