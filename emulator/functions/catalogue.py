"""The functions of an app, grouped by trigger type.

In the bindings, each %NAME% reference is replaced by the value of an app setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.functions.errors import AppLoadError
from emulator.functions.routes import Route, RouteError, RouteTable
from emulator.functions.settings import HostFile, ServiceBusOptions, resolve
from emulator.program import SettingError

_CORE_BINDINGS = frozenset({"http", "httpTrigger", "timerTrigger", "warmupTrigger"})
_DURABLE_BINDINGS = frozenset({"activityTrigger", "durableClient", "orchestrationTrigger"})
_BUNDLE_BINDINGS = _DURABLE_BINDINGS | {"serviceBusTrigger"}
_RESERVED_ROUTES = ("admin", "runtime")


@dataclass(frozen=True, slots=True)
class TriggeredFunction:
    """A function and the binding of its trigger.

    In the binding, each %NAME% reference is replaced by the value of an app setting.
    """

    name: str
    binding: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FunctionCatalogue:
    """The functions of an app, grouped by trigger type.

    `functions` lists all functions. `orchestrators` and `activities` map the names that
    orchestrations use to the names of functions.
    """

    functions: list[dict[str, Any]]
    routes: RouteTable
    service_bus_options: ServiceBusOptions
    timers: list[TriggeredFunction] = field(default_factory=list)
    service_bus: list[TriggeredFunction] = field(default_factory=list)
    orchestrators: dict[str, str] = field(default_factory=dict)
    activities: dict[str, str] = field(default_factory=dict)
    is_durable: bool = False


def build_catalogue(
    functions: list[dict[str, Any]], host_file: HostFile, settings: Mapping[str, str]
) -> FunctionCatalogue:
    """Group the functions of an app by trigger type.

    Raises AppLoadError if the host does not support a binding or a route, or if an app setting that
    a binding needs is missing.
    """
    routes: list[Route] = []
    catalogue = FunctionCatalogue(
        functions=functions,
        routes=RouteTable([]),
        service_bus_options=host_file.service_bus,
        is_durable=any(
            binding["type"] in _DURABLE_BINDINGS
            for function in functions
            for binding in function["bindings"]
        ),
    )
    for function in functions:
        name = function["name"]
        _check_bindings(function, host_file)
        if _is_disabled(name, settings):
            continue
        trigger = _trigger(function, settings)
        match trigger["type"]:
            case "httpTrigger":
                routes.append(_route(name, trigger, host_file.route_prefix))
            case "timerTrigger":
                catalogue.timers.append(TriggeredFunction(name, trigger))
            case "serviceBusTrigger":
                catalogue.service_bus.append(TriggeredFunction(name, trigger))
            case "orchestrationTrigger":
                catalogue.orchestrators[trigger.get("orchestration") or name] = name
            case "activityTrigger":
                catalogue.activities[trigger.get("activity") or name] = name
            case _:
                pass
    catalogue.routes.extend(routes)
    return catalogue


def _check_bindings(function: dict[str, Any], host_file: HostFile) -> None:
    name = function["name"]
    for binding in function["bindings"]:
        kind = binding["type"]
        if kind in _BUNDLE_BINDINGS:
            if not host_file.has_extension_bundle:
                raise AppLoadError(
                    f"The '{name}' function is in error: The binding type(s) '{kind}' are not "
                    "registered. Please ensure the type is correct and the binding extension is "
                    "installed (host.json has no extensionBundle)."
                )
        elif kind not in _CORE_BINDINGS:
            raise AppLoadError(
                f"cannot load the {name} function: this host does not support bindings of type "
                f"'{kind}'"
            )


def _trigger(function: dict[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    binding = next(b for b in function["bindings"] if b["type"].endswith("Trigger"))
    try:
        resolved: dict[str, Any] = resolve(binding, settings)
    except SettingError as error:
        raise AppLoadError(f"cannot load the {function['name']} function: {error}") from error
    return resolved


def _route(name: str, trigger: dict[str, Any], prefix: str) -> Route:
    template = str(trigger.get("route") or name).strip("/")
    if prefix:
        template = f"{prefix}/{template}"
    if template.split("/")[0].lower() in _RESERVED_ROUTES:
        raise AppLoadError(
            f"cannot load the {name} function: The specified route conflicts with one or more "
            "built in routes."
        )
    methods = frozenset(method.upper() for method in trigger.get("methods") or ())
    try:
        return Route(template, name, methods)
    except RouteError as error:
        raise AppLoadError(f"cannot load the {name} function: {error}") from error


def _is_disabled(name: str, settings: Mapping[str, str]) -> bool:
    return settings.get(f"AzureWebJobs.{name}.Disabled", "").lower() in ("true", "1")
