"""Check that each word of a public name is in a list of known words or in the glossary.

The file `vocabulary.txt` lists the words that need no explanation. All other words must be
explained in `docs/glossary.md`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GLOSSARY = ROOT / "docs" / "glossary.md"
VOCABULARY = Path(__file__).with_name("vocabulary.txt")
FOLDERS = ("functions", "worker", "emulator", "loosely", "lab", "infra")
SKIPPED = (ROOT / "infra" / "build", ROOT / "emulator" / "tests")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_TERM = re.compile(r"^\| \*\*(.+?)\*\*", re.MULTILINE)


def split(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits and single letters.

    The name is in snake case, camel case or capital letters.
    """
    return [word.lower() for word in _WORD.findall(name) if len(word) > 1]


def base_forms(word: str) -> set[str]:
    """Return `word`, and each possible base form: `job` for `jobs`, `move` for `moved`."""
    found = {word}
    if word.endswith("s"):
        found |= {word[:-1], word.removesuffix("es")}
    for ending in ("ed", "ing"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1:
            found |= {stem, stem + "e"}
            if stem[-1] == stem[-2]:
                found.add(stem[:-1])
    for ending in ("ies", "ied"):
        if word.endswith(ending):
            found.add(word.removesuffix(ending) + "y")
    return found


def is_public(name: str) -> bool:
    """Return whether a name is public. `__init__` counts as public, like its parameters."""
    return not name.startswith("_") or name == "__init__"


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the names of the public parameters of a function."""
    given = function.args
    for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if each is not None and is_public(each.arg):
            yield each.arg


def public_names(body: list[ast.stmt], place: str, *, is_class: bool) -> Iterator[tuple[str, str]]:
    """Yield each public name in the body of a module or class, and the place of the name.

    The names are those of classes, functions, methods, parameters and attributes of classes. A
    place is a text for error messages: the file, and the class or function in the file. The
    argument `place` is the place of the whole body.
    """
    for node in body:
        match node:
            case ast.ClassDef(name=name) if is_public(name):
                yield name, place
                yield from public_names(node.body, f"{place} {name}", is_class=True)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if is_public(name):
                yield name, place
                for parameter in parameters(node):
                    yield parameter, f"{place} {name}"
            case ast.AnnAssign(target=ast.Name(id=name)) if is_class and is_public(name):
                yield name, place
            case ast.Assign(targets=[ast.Name(id=name)]) if is_class and is_public(name):
                yield name, place


@cache
def all_names() -> tuple[tuple[str, str], ...]:
    """Return each public name of all programs, with its place: a file, class or function."""
    found: list[tuple[str, str]] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if set(SKIPPED) & set(path.parents):
                continue
            place = path.relative_to(ROOT)
            found += [(part, str(place)) for part in place.with_suffix("").parts]
            body = ast.parse(path.read_text(encoding="utf-8")).body
            found += public_names(body, str(place), is_class=False)
    return tuple(found)


def glossary() -> set[str]:
    """Return the words that occur in the terms of the glossary, in lower case."""
    terms = _TERM.findall(GLOSSARY.read_text(encoding="utf-8"))
    return {word.lower() for term in terms for word in re.findall(r"[A-Za-z]+", term)}


def vocabulary() -> list[str]:
    """Return the words of the vocabulary file, without the comments at its beginning."""
    lines = VOCABULARY.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_each_word_of_a_public_name_is_in_the_vocabulary_or_the_glossary() -> None:
    known = set(vocabulary()).union(*map(base_forms, glossary()))
    unknown = {
        word: f"{name} ({place})"
        for name, place in all_names()
        for word in split(name)
        if not base_forms(word) & known
    }
    assert unknown == {}, "rename these, or explain the words in docs/glossary.md"


def test_each_word_of_the_vocabulary_is_used_in_a_public_name() -> None:
    used = {form for name, _ in all_names() for word in split(name) for form in base_forms(word)}
    assert [word for word in vocabulary() if word not in used] == []


def test_no_word_is_both_in_the_vocabulary_and_in_the_glossary() -> None:
    assert sorted(set(vocabulary()) & glossary()) == []


def test_the_vocabulary_is_sorted_and_has_each_word_only_once() -> None:
    words = vocabulary()
    assert words == sorted(set(words))
    assert all(re.fullmatch(r"[a-z]{2,}", word) for word in words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OpenAPIRoutes2", ["open", "api", "routes"]),
        ("RESULT_TOO_LARGE", ["result", "too", "large"]),
        ("_sha256_of", ["sha", "of"]),
    ],
)
def test_names_in_snake_case_and_camel_case_are_split_into_words(
    name: str, words: list[str]
) -> None:
    assert split(name) == words


@pytest.mark.parametrize(
    ("word", "base"),
    [("queues", "queue"), ("batches", "batch"), ("stopping", "stop"), ("retried", "retry")],
)
def test_the_base_form_of_an_inflected_word_is_found(word: str, base: str) -> None:
    assert base in base_forms(word)
