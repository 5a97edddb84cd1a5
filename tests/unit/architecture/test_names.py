"""Check rules for the names of classes, for example that no two public classes share a name."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAMS = ("functions", "worker", "emulator", "loosely", "infra")

INTERFACE_OF_A_MODEL = "Infer"
"""Each model's file in worker/models has a class with this name."""


def test_public_class_names_are_unique() -> None:
    places = defaultdict(list)
    for folder in PROGRAMS:
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            if "/tests/" in place or place.startswith("infra/build/"):
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(place)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert set(shared) == {INTERFACE_OF_A_MODEL}, shared
