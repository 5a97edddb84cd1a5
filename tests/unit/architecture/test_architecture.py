"""Check rules for the whole repository, for example which modules may read settings."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "worker", "emulator", "loosely", "lab", "infra")
BUILT = ROOT / "infra" / "build"
TEST_FOLDERS = (ROOT / "tests", ROOT / "emulator" / "tests", ROOT / "lab" / "tests")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not {BUILT, *TEST_FOLDERS} & set(path.parents)
)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_only_listed_modules_read_the_environment() -> None:
    # Benchmarks only pass their environment on to the programs that they start.
    programs = [path for path in MODULES if not path.is_relative_to(ROOT / "lab")]
    readers = [path for path in programs if "os.environ" in path.read_text(encoding="utf-8")]
    assert set(names(readers)) == {
        "functions/function_app.py",
        "worker/__main__.py",
        # An engine server gets a part of the environment.
        "worker/processes/engine_server.py",
        "worker/tools/check.py",
        "worker/tools/describe.py",
        "worker/tools/lock_weights.py",
        "loosely/local/environment.py",
        # A broker's server gets the environment of `loosely up`.
        "loosely/local/broker_server.py",
        # The client reads the API key, which its users should not write into programs.
        "loosely/client/settings.py",
        # The app's settings are in local.settings.json and in its host's environment.
        "emulator/functions/__main__.py",
        # An app finds its settings there, too.
        "emulator/functions/in_process.py",
        "emulator/functions/app/__main__.py",
        # The services that the plugin starts inherit the environment of pytest.
        "emulator/pytest_plugin.py",
        "infra/smoke/jobs.py",
        "infra/smoke/servicebus.py",
    }


def test_no_module_has_a_generic_name() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "manager.py"}
    assert [path for path in MODULES if path.name in drawers] == []


def test_no_test_module_imports_another() -> None:
    paths = [path for folder in TEST_FOLDERS for path in folder.rglob("*.py")]
    pattern = re.compile(
        r"^\s*from [\w.]*\btest_\w+ import|^\s*from [\w.]+ import test_", re.MULTILINE
    )
    assert names([path for path in paths if pattern.search(path.read_text(encoding="utf-8"))]) == []


def test_only_end_to_end_tests_sleep() -> None:
    tests = [
        path
        for folder in TEST_FOLDERS
        for path in folder.rglob("test_*.py")
        if path != Path(__file__)
    ]
    sleepers = [path for path in tests if "time.sleep(" in path.read_text(encoding="utf-8")]
    assert names([path for path in sleepers if "e2e" not in path.parts]) == []


def test_only_the_factory_constructs_consumers() -> None:
    makers = [path for path in MODULES if "Consumer(" in path.read_text(encoding="utf-8")]
    assert names(makers) == ["worker/pipeline/factory.py"]
    callers = [path for path in MODULES if "make_consumer(" in path.read_text(encoding="utf-8")]
    assert names(callers) == [
        "worker/__main__.py",
        "worker/pipeline/factory.py",
        "worker/tools/check_load.py",
    ]


STORE_LIBRARIES = {
    *("azure.servicebus", "azure.storage", "azure.core"),
    *("pika", "aio_pika", "aiormq", "redis", "obstore"),
}
ADAPTERS = {
    "functions/gateway/brokers/rabbitmq.py": {"aio_pika"},
    "functions/gateway/brokers/redis_streams.py": {"redis"},
    "functions/gateway/brokers/servicebus.py": {"azure.core", "azure.servicebus"},
    "functions/gateway/storage/azure.py": {"azure.core", "azure.storage"},
    "functions/gateway/storage/s3.py": {"obstore"},
    "functions/gateway/streams/redis_logs.py": {"redis"},
    "worker/brokers/rabbitmq/": {"pika"},
    "worker/brokers/redis/": {"redis"},
    "worker/brokers/servicebus/": {"azure.core", "azure.servicebus"},
    "worker/objects/azure.py": {"azure.core", "azure.storage"},
    "worker/objects/s3.py": {"obstore"},
    "worker/streams/blobs.py": {"azure.core", "azure.storage"},
    "worker/streams/redis_streams.py": {"redis"},
}
"""The modules that may import the library of a broker or of a store, and the libraries."""


def imports_of(path: Path) -> set[str]:
    """Return the modules that a module imports anywhere, also inside of functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from azure import servicebus` imports a module, too.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_adapters_import_the_library_of_a_broker_or_a_store() -> None:
    used: dict[str, set[str]] = {}
    for path in MODULES:
        name = str(path.relative_to(ROOT))
        if not name.startswith(("functions/", "worker/", "loosely/")):
            continue
        place = next((each for each in ADAPTERS if name.startswith(each)), name)
        for library in STORE_LIBRARIES:
            if any(f"{each}.".startswith(f"{library}.") for each in imports_of(path)):
                used.setdefault(place, set()).add(library)
    assert used == ADAPTERS
