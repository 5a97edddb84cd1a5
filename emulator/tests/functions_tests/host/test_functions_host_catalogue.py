"""Test which functions the host leaves out, with the texts of Azure's host."""

from pathlib import Path
from typing import Any

import pytest

from emulator.functions.catalogue import build_catalogue
from emulator.functions.errors import AppLoadError
from emulator.functions.invoker import Invoker
from emulator.functions.loaded_app import AppSource
from emulator.functions.settings import HostFile
from emulator.functions.supervisor import AppSupervisor

OTHER = {"name": "other", "bindings": [{"name": "req", "type": "httpTrigger"}]}


def names(function: dict[str, Any]) -> list[str]:
    """Return the names of the loaded functions of an app with `function` and another function."""
    catalogue = build_catalogue([function, OTHER], HostFile(), {})
    return [loaded["name"] for loaded in catalogue.functions]


def make_function(name: str, *bindings: str, route: str | None = None) -> dict[str, Any]:
    """Return a function with an HTTP trigger, and with bindings of these names."""
    first = {"name": "req", "type": "httpTrigger", "route": route}
    return {"name": name, "bindings": [first, *({"name": b, "type": "http"} for b in bindings)]}


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (make_function("host"), "'host' is not a valid function name."),
        (make_function("_hidden"), "'_hidden' is not a valid function name."),
        (make_function("a" * 129), f"'{'a' * 129}' is not a valid function name."),
        (
            make_function("f", "webhook_reply"),
            "The binding name webhook_reply is invalid. Please assign a valid name to the binding.",
        ),
        (
            make_function("f", "1st"),
            "The binding name 1st is invalid. Please assign a valid name to the binding.",
        ),
        (
            make_function("f", "$return", "REQ"),
            "Multiple bindings with name 'REQ' discovered. Binding names must be unique.",
        ),
        (
            {"name": "f", "bindings": [{"name": "out", "type": "http"}]},
            "No trigger binding specified. A function must have a trigger input binding.",
        ),
        (
            make_function("f", route="/Administration/x"),
            "The specified route conflicts with one or more built in routes.",
        ),
        (
            make_function("runtime"),
            "The specified route conflicts with one or more built in routes.",
        ),
    ],
)
def test_invalid_function_is_left_out(
    function: dict[str, Any], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert names(function) == ["other"]
    assert caplog.messages == [f"The '{function['name']}' function is in error: {problem}"]


@pytest.mark.parametrize(
    "function",
    [
        make_function("A-b_1"),
        make_function("a" * 128, "$return", "b" * 128),
        make_function("f", route="x/admin"),
    ],
)
def test_valid_function_is_loaded(function: dict[str, Any]) -> None:
    assert names(function) == [function["name"], "other"]


def test_disabled_orchestrator_is_told_from_unknown() -> None:
    bundle = HostFile(has_extension_bundle=True)
    bindings = [{"name": "context", "type": "orchestrationTrigger"}]
    functions = [{"name": name, "bindings": bindings} for name in ("on", "off")]
    catalogue = build_catalogue(functions, bundle, {"AzureWebJobs.off.Disabled": "true"})
    invoker = Invoker(AppSupervisor(AppSource(Path(), {})), None, catalogue)
    assert list(invoker.orchestrators) == ["on"]
    assert list(invoker.disabled_orchestrators) == ["off"]


def test_app_without_valid_functions_is_refused() -> None:
    with pytest.raises(AppLoadError, match="'host' is not a valid function name"):
        build_catalogue([make_function("host")], HostFile(), {})
