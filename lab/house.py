"""Print the size and the shape of the code: `./dev house`.

It is needed before and after a change of structure, and draws nothing else.
"""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PRODUCT = ("functions", "worker", "loosely", "infra")
PACKAGES = ("contract", "gateway", "worker", "loosely", "emulator")
# The folders of the gateway from the ground up, and the modules beside them that are no part of the
# ground. An import should point down.
FLOORS = (
    *(
        "brokers",
        "storage",
        "queues",
        "jobs",
        "shares",
        "submission",
        "streams",
        "openai",
        "batches",
    ),
    *("dead_letters", "webhooks", "operations", "services", "http", "web_extension"),
    "housekeeping",
)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


def list_files(folder: str, suffix: str) -> list[Path]:
    """Return the files below a folder that git tracks and that have this suffix."""
    command = ["git", "ls-files", "-z", "--", folder]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name.endswith(suffix)]


def line_count(paths: Iterable[Path]) -> int:
    """Return the number of lines of these files."""
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def parse_code(paths: Iterable[Path]) -> Iterator[Definition]:
    """Yield the modules, classes and functions in these files."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, Definition):
                yield node


def documented_lines(node: Definition) -> int:
    """Return how many lines the docstring has; 0 without one."""
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def is_documented_at_length(node: Definition) -> bool:
    """Return whether a function's docstring is longer than the rest of its body."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.body[1:]:
        return False
    rest = (node.body[-1].end_lineno or 0) - node.body[1].lineno + 1
    return documented_lines(node) > rest


def find_loops() -> list[set[str]]:
    """Return the groups of modules that import each other in a cycle."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    reachable = {name: graph.find_downstream_modules(name) for name in graph.modules}
    cycles: list[set[str]] = []
    for name, found in sorted(reachable.items()):
        cycle = {other for other in found if name in reachable[other]}
        if cycle and not any(name in each for each in cycles):
            cycles.append({name, *cycle})
    return cycles


def find_imports_up() -> list[tuple[str, str]]:
    """Return the imports between the gateway's folders that point up, as importer and imported."""
    graph = grimp.build_graph("gateway", cache_dir=None)

    def floor(module: str) -> int:
        folder = module.partition(".")[2].partition(".")[0]
        return FLOORS.index(folder) if folder in FLOORS else -1

    return [
        (module, imported)
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if floor(imported) > floor(module)
    ]


def main() -> None:
    """Print each figure on a line of its own."""
    code = {folder: list_files(folder, ".py") for folder in (*PRODUCT, "emulator", "tests")}
    code["emulator"] = [
        path for path in code["emulator"] if "tests" not in path.relative_to(ROOT).parts
    ]
    for folder, paths in code.items():
        documented = sum(map(documented_lines, parse_code(paths)))
        print(
            f"{folder}: {line_count(paths):,} lines in {len(paths)} modules, "
            f"{100 * documented / line_count(paths):.0f} % docstrings"
        )
    product = [path for folder in PRODUCT for path in code[folder]]
    print(f"product (functions, worker, loosely, infra): {line_count(product):,} lines")
    long = sum(map(is_documented_at_length, parse_code([*product, *code["emulator"]])))
    print(f"functions whose docstring is longer than their body: {long}")
    names = [
        len(node.name)
        for node in parse_code(code["tests"])
        if not isinstance(node, ast.Module) and node.name.startswith("test_")
    ]
    print(f"names of tests: median {statistics.median(names):.0f}, longest {max(names)} characters")
    for cycle in (cycles := find_loops()):
        print(f"  import cycle: {', '.join(sorted(cycle))}")
    print(f"import cycles: {len(cycles)}")
    print(f"imports in the gateway that point up: {len(find_imports_up())}")
    print(f"DESIGN.md: {(ROOT / 'DESIGN.md').stat().st_size:,} bytes")
    pages = [*ROOT.glob("*.md"), *list_files("docs", ".md"), *list_files("infra", ".md")]
    words = sum(len(re.findall(r"\w+", path.read_text("utf-8"))) for path in pages)
    print(f"words of documentation: {words:,}")
    terms = re.findall(
        r"^\| \*\*", (ROOT / "docs/reference/glossary.md").read_text("utf-8"), re.MULTILINE
    )
    print(f"terms in the glossary: {len(terms)}")


if __name__ == "__main__":
    main()
