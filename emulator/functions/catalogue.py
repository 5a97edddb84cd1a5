"""The functions of an app, grouped by trigger type.

In the bindings, each %NAME% reference is replaced by the value of an app setting.
"""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.functions.errors import AppLoadError, RouteInvalid
from emulator.functions.routes import Route, RouteError, RouteTable
from emulator.functions.settings import HostFile, ServiceBusOptions, resolve
from emulator.program import SettingError

_log = logging.getLogger("functions.host")
_CORE_BINDINGS = frozenset({"http", "httpTrigger", "timerTrigger", "warmupTrigger"})
_TASK_TRIGGERS = frozenset({"activityTrigger", "orchestrationTrigger"})
_DURABLE_BINDINGS = _TASK_TRIGGERS | {"durableClient"}
_BUNDLE_BINDINGS = _DURABLE_BINDINGS | {"serviceBusTrigger"}
_RESERVED_ROUTES = ("admin", "runtime")
_RESERVED = "The specified route conflicts with one or more built in routes."
_FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_BINDING_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,127}|\$return")


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

    Functions that an app setting disables are only in `disabled` and, if they are orchestrators or
    activities, in these groups. The two map the names that orchestrations use to functions.
    """

    functions: list[dict[str, Any]]
    routes: RouteTable
    service_bus_options: ServiceBusOptions
    timers: list[TriggeredFunction] = field(default_factory=list)
    service_bus: list[TriggeredFunction] = field(default_factory=list)
    orchestrators: dict[str, str] = field(default_factory=dict)
    activities: dict[str, str] = field(default_factory=dict)
    disabled: list[str] = field(default_factory=list)
    is_durable: bool = False


def select_functions(
    functions: list[dict[str, Any]], names: Collection[str]
) -> list[dict[str, Any]]:
    """Return the functions with these names, ignoring case, or all functions if `names` is empty.

    Missing names are logged. Raises AppLoadError if all are missing.
    """
    if not names:
        return functions
    wanted = {name.lower() for name in names}
    selected = [function for function in functions if str(function["name"]).lower() in wanted]
    missing = wanted - {str(function["name"]).lower() for function in selected}
    if missing:
        known = ", ".join(sorted(str(function["name"]) for function in functions))
        text = f"--functions: the app has no function {', '.join(sorted(missing))}; it has {known}"
        if not selected:
            raise AppLoadError(text)
        _log.warning("%s", text)
    return selected


def build_catalogue(
    functions: list[dict[str, Any]], host_file: HostFile, settings: Mapping[str, str]
) -> FunctionCatalogue:
    """Group the functions of an app by trigger type.

    As in Azure, a function with an invalid name or binding, or with the route of a function whose
    name comes earlier, is not loaded, and the error is logged. Raises AppLoadError if none is left
    or a binding needs a missing app setting, and RouteInvalid if a route template is invalid.
    """
    routes: list[Route] = []
    accepted = _accept_functions(functions, host_file, settings)
    functions = [function for function in functions if function["name"] in accepted]
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
        if _is_disabled(name, settings):
            catalogue.disabled.append(name)
            if not any(binding["type"] in _TASK_TRIGGERS for binding in function["bindings"]):
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


def _accept_functions(
    functions: list[dict[str, Any]], host_file: HostFile, settings: Mapping[str, str]
) -> set[str]:
    """Return the functions that can be loaded; log the others. Raises AppLoadError if none."""
    accepted: set[str] = set()
    problems: list[str] = []
    served: list[tuple[str, frozenset[str], str]] = []
    for function in sorted(functions, key=lambda function: str(function["name"]).upper()):
        name = function["name"]
        problem = _find_invalid(function) or _find_unsupported(function, host_file)
        if problem is None and not _is_disabled(name, settings):
            problem = _find_conflict(function, served)
        if problem is None:
            accepted.add(name)
        else:
            problems.append(f"The '{name}' function is in error: {problem}")
    if problems and not accepted:
        raise AppLoadError(" ".join(problems))
    for text in problems:
        _log.error("%s", text)
    return accepted


def _find_invalid(function: dict[str, Any]) -> str | None:
    """Return in Azure's words which rule of its host a function breaks, or None."""
    name = function["name"]
    if not _FUNCTION_NAME.fullmatch(name) or name.lower() == "host":
        return f"'{name}' is not a valid function name."
    bindings = function["bindings"]
    used: set[str] = set()
    for label in (binding["name"] for binding in bindings):
        if not _BINDING_NAME.fullmatch(label):
            return (
                f"The binding name {label} is invalid. Please assign a valid name to the binding."
            )
        if label.lower() in used:
            return (
                f"Multiple bindings with name '{label}' discovered. Binding names must be unique."
            )
        used.add(label.lower())
    trigger = next((b for b in bindings if b["type"].endswith("Trigger")), None)
    if trigger is None:
        return "No trigger binding specified. A function must have a trigger input binding."
    route = str(trigger.get("route") or name).strip("/").lower()
    is_reserved = trigger["type"] == "httpTrigger" and route.startswith(_RESERVED_ROUTES)
    return _RESERVED if is_reserved else None


def _find_unsupported(function: dict[str, Any], host_file: HostFile) -> str | None:
    """Return why the host does not support one of a function's bindings, or None."""
    for binding in function["bindings"]:
        kind = binding["type"]
        if kind in _BUNDLE_BINDINGS:
            if not host_file.has_extension_bundle:
                return (
                    f"The binding type(s) '{kind}' are not registered. Please ensure the type is "
                    "correct and the binding extension is installed (host.json has no "
                    "extensionBundle)."
                )
        elif kind not in _CORE_BINDINGS:
            return f"this host does not support bindings of type '{kind}'"
    return None


def _find_conflict(
    function: dict[str, Any], served: list[tuple[str, frozenset[str], str]]
) -> str | None:
    """Return the error if a route in `served` conflicts; otherwise add the function's route."""
    trigger = next((b for b in function["bindings"] if b["type"] == "httpTrigger"), None)
    if trigger is None:
        return None
    template = str(trigger.get("route") or function["name"]).strip("/").lower()
    methods = _methods(trigger)
    for other_template, other_methods, other in served:
        overlap = not methods or not other_methods or methods & other_methods
        if other_template == template and overlap:
            return f"The route specified conflicts with the route defined by function '{other}'."
    served.append((template, methods, function["name"]))
    return None


def _methods(trigger: dict[str, Any]) -> frozenset[str]:
    return frozenset(method.upper() for method in trigger.get("methods") or ())


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
        raise AppLoadError(f"cannot load the {name} function: {_RESERVED}")
    try:
        return Route(template, name, _methods(trigger))
    except RouteError as error:
        raise RouteInvalid(f"cannot load the {name} function: {error}") from error


def _is_disabled(name: str, settings: Mapping[str, str]) -> bool:
    return settings.get(f"AzureWebJobs.{name}.Disabled", "").lower() in ("true", "1")
