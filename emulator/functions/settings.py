"""Read the settings of a Function App: host.json and the app settings.

As in Azure, the files may contain comments, and unknown keys of host.json are ignored. App settings
are the values of local.settings.json and the environment variables of the host. As in Core Tools,
an environment variable takes precedence over a value of the file. A binding refers to an app
setting as %NAME%.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.functions.newtonsoft import normalize_json
from emulator.program import SettingError

_TIMESPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?")
_UNLIMITED = "-1"
_AT_ONCE = 10 * (os.cpu_count() or 1)
_REFERENCE = re.compile(r"%([^%\s]+)%")


@dataclass(frozen=True, slots=True)
class ServiceBusOptions:
    """The settings in `extensions.serviceBus` of host.json.

    Each trigger processes at most `max_concurrent_calls` messages at the same time. The lock of a
    message is renewed for at most `max_lock_renewal_seconds`.
    """

    max_concurrent_calls: int = 16
    max_lock_renewal_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class DurableOptions:
    """The settings in `extensions.durableTask` of host.json.

    `hub_name` is the name of the task hub. At most `max_activities` activities and
    `max_orchestrators` orchestrators run at the same time. An instance that is started without a
    version gets `default_version`. If `replaces_unfinished` is true, the start of an instance
    terminates an unfinished instance with the same id; otherwise the start is refused.
    """

    hub_name: str = "TestHubName"
    max_activities: int = _AT_ONCE
    max_orchestrators: int = _AT_ONCE
    default_version: str | None = None
    replaces_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class HostFile:
    """The settings of host.json.

    An invocation may take at most `function_timeout_seconds`. At most `max_outstanding_requests`
    HTTP requests to functions may be in flight. For both settings, None means that there is no
    limit.
    """

    route_prefix: str = "api"
    function_timeout_seconds: float | None = 1800.0
    has_extension_bundle: bool = False
    max_outstanding_requests: int | None = None
    durable: DurableOptions = DurableOptions()
    service_bus: ServiceBusOptions = ServiceBusOptions()


@dataclass(frozen=True, slots=True)
class AppConfiguration:
    """The settings of an app: host.json, and the app settings by name."""

    host_file: HostFile
    settings: Mapping[str, str] = field(repr=False)


def read_host_file(folder: Path) -> HostFile:
    """Read host.json in a folder. Raises SettingError if the file is missing or invalid."""
    path = folder / "host.json"
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        raise SettingError(f"{path} is missing: a Function App folder needs a host.json") from None
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    try:
        return parse_host_file(json.loads(normalize_json(body)))
    except (SettingError, ValueError, RecursionError) as error:
        raise SettingError(f"{path}: {error}") from error


def parse_host_file(document: Any) -> HostFile:
    """Return the settings of a host.json document. Raises SettingError if it is invalid."""
    if not isinstance(document, dict):
        raise SettingError("the file must contain a JSON object")
    version = document.get("version")
    if version != "2.0":
        raise SettingError(f"'version' must be \"2.0\", got {json.dumps(version)}")
    extensions = _object(document, "extensions")
    http = _object(extensions, "http")
    durable = _object(extensions, "durableTask")
    bus = _object(extensions, "serviceBus")
    bundle = _object(document, "extensionBundle")
    outstanding = _integer(http, "maxOutstandingRequests", -1)
    return HostFile(
        route_prefix=_text(http, "routePrefix", "api").strip("/"),
        function_timeout_seconds=_timeout(document),
        has_extension_bundle=bool(bundle.get("id")) and bool(bundle.get("version")),
        max_outstanding_requests=outstanding if outstanding >= 0 else None,
        durable=DurableOptions(
            hub_name=_text(durable, "hubName", "TestHubName"),
            max_activities=max(1, _integer(durable, "maxConcurrentActivityFunctions", _AT_ONCE)),
            max_orchestrators=max(
                1, _integer(durable, "maxConcurrentOrchestratorFunctions", _AT_ONCE)
            ),
            default_version=(
                _text(durable, "defaultVersion", "") if "defaultVersion" in durable else None
            ),
            replaces_unfinished=_text(
                durable, "overridableExistingInstanceStates", "NonRunningStates"
            ).lower()
            == "anystate",
        ),
        service_bus=ServiceBusOptions(
            max_concurrent_calls=max(1, _integer(bus, "maxConcurrentCalls", 16)),
            max_lock_renewal_seconds=parse_timespan(
                _text(bus, "maxAutoLockRenewalDuration", "00:05:00")
            ),
        ),
    )


def parse_timespan(text: str) -> float:
    """Convert a .NET time span, `[d.]hh:mm[:ss]`, to seconds. Raises SettingError."""
    match = _TIMESPAN.fullmatch(text)
    if match is None:
        raise SettingError(
            f'"{text}" is not a time span: expected [d.]hh:mm[:ss], for example 00:05:00'
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _timeout(document: dict[str, Any]) -> float | None:
    text = _text(document, "functionTimeout", "00:30:00")
    if text == _UNLIMITED:
        return None
    seconds = parse_timespan(text)
    if not seconds:
        raise SettingError("'functionTimeout' must be longer than 0; use \"-1\" for no limit")
    return seconds


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingError(f"'{key}' must be a JSON object, got {json.dumps(value)[:100]}")
    return value


def _text(parent: dict[str, Any], key: str, default: str) -> str:
    value = parent.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise SettingError(f"'{key}' must be a string, got {json.dumps(value)[:100]}")
    return value


def _integer(parent: dict[str, Any], key: str, default: int) -> int:
    value = parent.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingError(f"'{key}' must be a whole number, got {json.dumps(value)[:100]}")
    return value


@dataclass(frozen=True, slots=True)
class LocalHostOptions:
    """The options of the host in the object `Host` of local.settings.json, as in Core Tools.

    `port` is the default of `--port`, and `cors_origins` is the default of `--cors`.
    """

    port: int | None = None
    cors_origins: tuple[str, ...] = ()


def read_local_host_options(folder: Path) -> LocalHostOptions:
    """Read the host's options in local.settings.json. Raises SettingError if invalid."""
    path = folder / "local.settings.json"
    document = _read_local_settings(path)
    try:
        host = _object(document, "Host")
        port = _integer(host, "LocalHttpPort", 0)
        origins = _text(host, "CORS", "")
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error
    if not 0 <= port <= 65535:
        raise SettingError(f"{path}: 'LocalHttpPort' must be a port from 1 to 65535, got {port}")
    return LocalHostOptions(port or None, split_origins(origins))


def split_origins(text: str) -> tuple[str, ...]:
    """Split a list of origins that are separated by commas, as in the option `--cors`."""
    return tuple(origin.strip() for origin in text.split(",") if origin.strip())


def read_app_settings(
    folder: Path, environment: Mapping[str, str], file: Path | None = None
) -> dict[str, str]:
    """Return the values of local.settings.json, then of `file`, then of `environment`."""
    own = {} if file is None else _file_values(file)
    return {**_file_values(folder / "local.settings.json"), **own, **environment}


def _read_local_settings(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(normalize_json(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SettingError(f"{path}: the file must contain a JSON object")
    if document.get("IsEncrypted"):
        raise SettingError(f"{path}: encrypted settings are not supported; decrypt the file first")
    return document


def _file_values(path: Path) -> dict[str, str]:
    document = _read_local_settings(path)
    values = document.get("Values", {})
    if not isinstance(values, dict):
        raise SettingError(f"{path}: 'Values' must be a JSON object")
    for name, value in values.items():
        if not isinstance(value, str):
            raise SettingError(f"{path}: the value of '{name}' must be a string")
    return values


def resolve(value: Any, settings: Mapping[str, str]) -> Any:
    """Replace each %NAME% in a binding's texts by an app setting. Raises SettingError without."""
    if isinstance(value, dict):
        return {key: resolve(item, settings) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, settings) for item in value]
    if not isinstance(value, str) or "%" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        try:
            return settings[match[1]]
        except KeyError:
            raise SettingError(f"'%{match[1]}%' does not resolve to a value") from None

    return _REFERENCE.sub(replace, value)
