"""Test that the files and headings to which the documents refer exist."""

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LISTED = subprocess.run(
    ["git", "ls-files", "-z", "--", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True
).stdout.split("\0")[:-1]
#: Made by a command, or parts of URLs of the emulator.
NOT_HERE = (
    "emulator/",
    "functions/local.settings.json",
    "infra/build",
    "loosely/system",
    "loosely/weights",
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(
    r"(?<![\w/.-])((?:functions|worker|emulator|loosely|infra|tests|lab|docs|examples)"
    r"/[\w./-]*[\w/])"
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str) -> Iterator[str]:
    for link in _LINK.findall(without_code(read(name))):
        path, _, anchor = link.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (ROOT / name).parent / path if path else ROOT / name
        is_there = target.exists()
        if is_there and anchor:
            is_there = anchor in anchors(target.read_text(encoding="utf-8"))
        if not is_there:
            yield link


def missing_paths(name: str) -> Iterator[str]:
    for path in _PATH.findall(read(name)):
        folders = (ROOT, (ROOT / name).parent)
        if not path.startswith(NOT_HERE) and not any((each / path).exists() for each in folders):
            yield path


@pytest.mark.parametrize("name", LISTED)
def test_links_lead_somewhere(name: str) -> None:
    assert not [*broken_links(name)]


@pytest.mark.parametrize("name", LISTED)
def test_named_paths_exist(name: str) -> None:
    assert not [*missing_paths(name)]


@pytest.mark.parametrize("name", LISTED)
def test_lists_and_tables_follow_an_empty_line(name: str) -> None:
    # The site does not show them as lists and tables otherwise.
    lines = without_code(read(name)).splitlines()
    starts = re.compile(r"(\||[-*] |\d+\. )")
    faults = [
        line
        for before, line in pairwise(lines)
        if starts.match(line) and before[:1].isalnum() and not starts.match(before)
    ]
    assert not faults


def test_site_lists_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [
        name
        for name in LISTED
        if name.startswith("docs/") and not re.match(r"docs/decisions/\d", name)
    ]
    assert not [name for name in pages if f" {name}\n" not in site]
