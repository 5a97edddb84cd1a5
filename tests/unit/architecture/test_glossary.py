"""Check that each term of glossary.md is used, and that each class named there exists."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GLOSSARY = ROOT / "docs/reference/glossary.md"
PACKAGES = ("functions", "worker", "emulator", "loosely", "infra", "lab")
_TERM = re.compile(r"^\| \*\*(.+?)\*\*(?: \(`(\w+)`\))? \|", re.MULTILINE)

ROWS: list[tuple[str, str]] = _TERM.findall(GLOSSARY.read_text(encoding="utf-8"))


def pattern(term: str) -> re.Pattern[str]:
    """Return a pattern that finds `term` in text and in names: `dead letter` in `dead_letters`."""
    return re.compile(r"[\s_-]?".join(map(re.escape, term.split())), re.IGNORECASE)


def texts() -> Iterator[str]:
    """Yield the content of each module and of each document, but not of the glossary."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in documents + modules:
        if path != GLOSSARY:
            yield path.read_text(encoding="utf-8")


@cache
def everything() -> str:
    return "\n".join(texts())


@pytest.mark.parametrize("term", [term for term, _ in ROWS])
def test_each_term_is_used(term: str) -> None:
    assert pattern(term).search(everything()), f"{term!r} is used neither in code nor in documents"


@pytest.mark.parametrize("name", [name for _, name in ROWS if name])
def test_each_class_named_exists(name: str) -> None:
    assert re.search(rf"^class {name}\b", everything(), re.MULTILINE)


def test_each_term_is_defined_once() -> None:
    terms = [term.lower() for term, _ in ROWS]
    assert len(terms) == len(set(terms)) > 30
