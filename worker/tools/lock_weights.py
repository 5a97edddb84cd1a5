"""`python -m worker.tools.lock_weights [NAME…]`: write digests into the model catalogue.

The command writes `weights_sha256` below `weights` of each entry without a digest, or of the named
entries, and changes nothing else. The exit code is 1 if a digest cannot be computed or written, and
2 if NAME or a setting is invalid.
"""

import argparse
import copy
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from contract.errors import InvalidSetting
from worker.errors import WorkerError
from worker.settings import CheckSettings
from worker.weights.store import WeightsStore

_KEY: Final = "weights_sha256"
_WEIGHTS_LINE: Final = re.compile(r"(\s*)weights\s*=.*?(\r?\n|$)", re.DOTALL)
_DIGEST_LINE: Final = re.compile(rf"(\s*{_KEY}\s*=\s*)(?:\"[^\"]*\"|'[^']*')(.*)", re.DOTALL)

TablePath = tuple[str, ...]


class NotEditable(Exception):
    """The catalogue file cannot be changed. The error's text says what to do instead."""


def find_entries(document: dict[str, Any]) -> Iterator[tuple[TablePath, str, str]]:
    """Yield the keys, the weights and the digest, or "", of each table with the key `weights`."""
    for name, table in document.items():
        if not isinstance(table, dict):
            continue
        below = [((name, key), child) for key, child in table.items() if isinstance(child, dict)]
        for path, each in [((name,), table), *below]:
            if isinstance(weights := each.get("weights"), str):
                yield path, weights, str(each.get(_KEY, ""))


def set_digest(text: str, path: TablePath, sha256: str) -> str:
    """Return the text of a catalogue with the digest in one table, or raise NotEditable."""
    wanted = copy.deepcopy(tomllib.loads(text))
    table = wanted
    for key in path:
        table = table[key]
    table[_KEY] = sha256
    for candidate in _edit(text.splitlines(keepends=True), path, sha256):
        with suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(candidate) == wanted:
                return candidate
    raise NotEditable(
        f"the form of the table {'.'.join(path)} in the catalogue does not allow an automatic "
        f'change; add this key to the table yourself: {_KEY} = "{sha256}"'
    )


def _edit(lines: list[str], path: TablePath, sha256: str) -> Iterator[str]:
    """Yield candidates for the new text: a line may also be a part of a multi-line string."""
    section: TablePath = ()
    for number, line in enumerate(lines):
        section = _read_header(line) or section
        if section != path:
            continue
        if found := _DIGEST_LINE.fullmatch(line):
            changed = f'{found[1]}"{sha256}"{found[2]}'
            yield "".join([*lines[:number], changed, *lines[number + 1 :]])
        elif found := _WEIGHTS_LINE.fullmatch(line):
            end = found[2] or "\n"
            added = f'{found[1]}{_KEY} = "{sha256}"{end}'
            before = line if found[2] else line + end
            yield "".join([*lines[:number], before, added, *lines[number + 1 :]])


def _read_header(line: str) -> TablePath | None:
    """Return the keys of the TOML table whose header is this line; None for any other line."""
    if not line.lstrip().startswith("["):
        return None
    try:
        table = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(table, dict) and table:
        [(key, table)] = table.items()
        path.append(key)
    return tuple(path)


def lock(
    catalogue: Path, names: Sequence[str], store: WeightsStore, output: TextIO, errors: TextIO
) -> bool:
    """Write the digests of weights into a catalogue file. Return whether all were written.

    Raises InvalidSetting if the catalogue cannot be read, or has no weights for a name.
    """
    entries = list(find_entries(_read(catalogue)[1]))
    if unknown := set(names) - {path[0] for path, _, _ in entries}:
        raise InvalidSetting(
            f"{min(unknown)}: the catalogue {catalogue} has no entry with this name, or the entry "
            "has no key `weights`"
        )
    chosen = [
        (path, weights)
        for path, weights, digest in entries
        if (path[0] in names if names else not digest)
    ]
    if not chosen:
        output.write("every entry with weights has a digest; name a model to compute it again\n")
    is_complete = True
    for path, weights in chosen:
        try:
            sha256 = store.compute_digest(weights)
            _write(catalogue, path, sha256)
        except (WorkerError, ValueError, NotEditable) as error:
            code = f"{error.code}: " if isinstance(error, WorkerError) else ""
            errors.write(f"{'.'.join(path)}: {code}{error}\n")
            is_complete = False
        else:
            output.write(f"{'.'.join(path)}: {sha256} {weights}\n")
            output.flush()
    return is_complete


def _read(catalogue: Path) -> tuple[str, dict[str, Any]]:
    try:
        with catalogue.open(encoding="utf-8", newline="") as file:
            text = file.read()
        return text, tomllib.loads(text.replace("\r\n", "\n"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"cannot read the catalogue {catalogue}: {error}") from None


def _write(catalogue: Path, path: TablePath, sha256: str) -> None:
    """Write a digest into the catalogue, which is read again after the download."""
    text, _ = _read(catalogue)
    try:
        changed = set_digest(text, path, sha256)
    except KeyError:
        raise NotEditable(
            f"the entry {'.'.join(path)} was removed from the catalogue during the download, so no "
            "digest was written"
        ) from None
    if changed != text:
        replace_text(catalogue, changed)


def replace_text(catalogue: Path, text: str) -> None:
    """Replace the text of the catalogue file at once, so that no reader sees a part of it."""
    target = catalogue.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    part = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123  a handle
            file.write(text)
        shutil.copymode(target, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str], environ: dict[str, str], output: TextIO, errors: TextIO) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.tools.lock_weights", description="Write the digests of weights."
    )
    parser.add_argument("names", nargs="*", help="models whose digests are computed again")
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        store = WeightsStore.of(settings.weights, settings.guard, settings.payload_storage)
        is_complete = lock(settings.catalogue, parsed.names, store, output, errors)
    except InvalidSetting as error:
        errors.write(f"{error}\n")
        return 2
    except OSError as error:
        errors.write(f"the catalogue cannot be written: {error}\n")
        return 1
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ), sys.stdout, sys.stderr))
