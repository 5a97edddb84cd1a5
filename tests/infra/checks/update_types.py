"""Write schemas/bicep-types.json: the types of the resources that infra/ uses, and no others.

    .venv-infra/bin/python -m tests.infra.checks.update_types FOLDER

FOLDER is a clone of https://github.com/Azure/bicep-types-az. Descriptions are left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.infra.checks.bicep import TYPES, Template

INFRA = Path(__file__).parents[3] / "infra"


def collect(source: Path, kinds: list[str]) -> dict[str, Any]:
    """Return the entries of these resource types and of all types that they refer to."""
    positions: dict[tuple[Path, int], int] = {}
    entries: list[Any] = []

    def copy(value: Any, path: Path, loaded: list[Any]) -> Any:
        if isinstance(value, list):
            return [copy(each, path, loaded) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return {"$ref": f"#/{place(int(value['$ref'].removeprefix('#/')), path, loaded)}"}
        # A property may have the name "description".
        left_out = {"description"} if {"$type", "flags"} & set(value) else set()
        return {k: copy(v, path, loaded) for k, v in value.items() if k not in left_out}

    def place(number: int, path: Path, loaded: list[Any]) -> int:
        if (path, number) not in positions:
            positions[path, number] = len(entries)
            entries.append(None)
            entries[positions[path, number]] = copy(loaded[number], path, loaded)
        return positions[path, number]

    resources = {}
    for kind in kinds:
        provider, version = kind.partition("/")[0].lower(), kind.partition("@")[2].lower()
        (path,) = source.glob(f"**/{provider}/{version}/types.json")
        loaded = json.loads(path.read_text(encoding="utf-8"))
        number = next(
            index
            for index, entry in enumerate(loaded)
            if entry.get("$type") == "ResourceType" and entry["name"].lower() == kind.lower()
        )
        resources[kind] = place(number, path, loaded)
    return {"resources": resources, "entries": entries}


def main() -> None:
    """Write the file, with one entry on each line."""
    templates = [*INFRA.glob("*.bicep"), *INFRA.glob("modules/*.bicep")]
    kinds: set[str] = set().union(*(Template.load(path).kinds for path in templates))
    found = collect(Path(sys.argv[1]), sorted(kinds))
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in found["entries"])
    resources = json.dumps(found["resources"], indent=0)
    TYPES.write_text(f'{{"resources": {resources}, "entries": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
