"""The worker's settings, which are read once from environment variables."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from contract.catalogue import DEFAULT_PATH
from contract.guard import AddressGuard
from contract.names import SETTING_CATALOGUE, SETTING_PAYLOAD_STORAGE, SETTING_SERVICE_BUS
from contract.webhook import SETTING_GUARD_ALLOW
from worker.errors import SettingsError
from worker.processes.setup import available_processors, torch_threads

T = TypeVar("T")

PLAIN_HTTP = "http://"
"""An entry of REPLY_HOSTS with this prefix permits replies without TLS to the host in the entry."""

DEFAULT_HUB = "https://huggingface.co"
METADATA_ADDRESS = "http://169.254.169.254"

_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_SHIFTS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_DEFAULT_TURN_SECONDS = 5.0
# Enough for one image of 50 million pixels in the format that needs the most memory.
DEFAULT_INPUT_MEMORY_BYTES = 1024 * 1024 * 1024

_REPLY_HOST = re.compile(
    r"(?P<address>(?i:http://)?[^/]+:[0-9]{1,5})(?P<path>(?:/[A-Za-z0-9._~-]+)*)"
)
_HUB_ADDRESS = re.compile(r"(https?)://([\w.-]+)(?::\d{1,5})?(?:/[\w.~-]+)*")
_LOOPBACK = ("127.0.0.1", "localhost")
_YES, _NO = ("1", "on", "yes", "true"), ("", "0", "off", "no", "false")
_HTTP_ADDRESS = re.compile(r"http://[\w.-]+(:\d{1,5})?")
_DEFAULT_HEALTH_PORT = 8081
_DEFAULT_DRAIN_SECONDS = 30.0
_DEFAULT_HEARTBEAT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class AzureEndpoint:
    """How to connect to an Azure service. Exactly one of the attributes is set.

    Attributes:
        connection_string: The connection string of the service.
        address: The host name or the URL of the service, which is used with a managed identity.
    """

    connection_string: str | None = field(default=None, repr=False)
    address: str | None = None


class ScheduledEventMode(StrEnum):
    """What the worker does if a scheduled event will stop its machine.

    Attributes:
        OFF: Nothing. The worker does not poll scheduled events.
        DRAIN: Shut down.
        ACKNOWLEDGE: Shut down, and then allow Azure to start the event at once.
    """

    OFF = "off"
    DRAIN = "drain"
    ACKNOWLEDGE = "acknowledge"


@dataclass(frozen=True, slots=True)
class ScheduledEventSettings:
    """The settings for scheduled events.

    Attributes:
        mode: What the worker does if an event will stop its machine.
        address: The URL of the metadata service.
        machine: The name of this machine. If the name is empty, the worker gets it from the
            metadata service.
    """

    mode: ScheduledEventMode = ScheduledEventMode.OFF
    address: str = METADATA_ADDRESS
    machine: str = ""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How to download weights from the Hugging Face Hub.

    Attributes:
        endpoint: The URL of the hub, without a slash at its end.
        token: The access token for private repositories; empty if there is no token.
    """

    endpoint: str = DEFAULT_HUB
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """The cache of downloaded weights, and the use of the Hugging Face Hub.

    Attributes:
        cache: The folder for downloaded weights.
        cache_limit_bytes: The largest size of the folder; None for no limit.
        hub: How to use the hub; None if weights of the hub are read from blob storage.
    """

    cache: Path = field(default_factory=Path)
    cache_limit_bytes: int | None = None
    hub: HubSettings | None = None


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """How the worker uses the device's memory.

    Attributes:
        budget_bytes: The memory of the simulated device in bytes; None if the worker uses a real
            device.
        folder: The folder in which the processes that use the same device store their reservations.
        is_admitting: Whether the worker reserves device memory for a model before it loads the
            model.
        turn_seconds: How long a loaded model may stay in memory while other models wait.
        card_shares: The number of pods that share one GPU but have no common folder.
        is_cuda_required: Whether models are loaded only on a CUDA GPU.
    """

    budget_bytes: int | None = None
    folder: Path = field(default_factory=Path)
    is_admitting: bool = True
    turn_seconds: float = 5.0
    card_shares: int = 1
    is_cuda_required: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of a worker process.

    If `models` is empty, the worker runs all models. `input_memory_bytes` is the memory that all
    large inputs share while they are decoded and wait to run. If `lock_folder` is None, the worker
    notes neither its message locks nor its loads of models. If `is_restarting` is true, the worker
    runs in a child process, which is replaced when it has died. If `heartbeat_seconds` is 0, the
    worker writes no heartbeats.

    If the worker has set a model aside for `broken_model_seconds`, the jobs of this model fail with
    the reason. If `broken_model_seconds` is 0, the jobs wait.

    `lock_seconds` is the lock duration of the queues in seconds. It is used for each model whose
    catalogue entry has a shorter lock duration.
    """

    service_bus: AzureEndpoint
    payload_storage: AzureEndpoint
    catalogue: Path
    models: tuple[str, ...]
    reply_hosts: frozenset[str]
    health_host: str
    health_port: int
    drain_seconds: float
    torch_threads: int
    log_level: str
    guard: AddressGuard = field(default_factory=AddressGuard)
    log_format: str = "text"
    trace_exporters: tuple[str, ...] = ()
    scheduled_events: ScheduledEventSettings = field(default_factory=ScheduledEventSettings)
    weights: WeightsSettings = field(default_factory=WeightsSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    input_memory_bytes: int = DEFAULT_INPUT_MEMORY_BYTES
    lock_folder: Path | None = None
    is_restarting: bool = False
    heartbeat_seconds: int = 0
    lock_seconds: int = 0
    broken_model_seconds: float = 0.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "WorkerSettings":
        """Read all settings from environment variables.

        Raises:
            SettingsError: A variable is missing or wrong. The error's text names the variable.
        """
        return cls(
            service_bus=_endpoint(environ, SETTING_SERVICE_BUS, "fullyQualifiedNamespace"),
            payload_storage=_endpoint(environ, SETTING_PAYLOAD_STORAGE, "blobServiceUri"),
            catalogue=Path(environ.get(SETTING_CATALOGUE) or DEFAULT_PATH),
            models=_names(environ.get("WORKER_MODELS", "")),
            reply_hosts=_hosts(environ),
            health_host=environ.get("HEALTH_HOST") or "127.0.0.1",
            health_port=_whole(environ, "HEALTH_PORT", _DEFAULT_HEALTH_PORT, 0, 65535),
            drain_seconds=_seconds(environ, "WORKER_DRAIN_SECONDS", _DEFAULT_DRAIN_SECONDS),
            torch_threads=_whole(
                environ, "TORCH_THREADS", torch_threads(available_processors()), 1, 1024
            ),
            log_level=_level(environ),
            guard=_read(environ, SETTING_GUARD_ALLOW, AddressGuard),
            log_format=_choice(environ, "LOG_FORMAT", "text", "json"),
            trace_exporters=_exporters(environ),
            scheduled_events=_scheduled_events(environ),
            weights=_weights(environ),
            memory=_memory(environ),
            input_memory_bytes=_size(environ, "WORKER_INPUT_MEMORY") or DEFAULT_INPUT_MEMORY_BYTES,
            lock_folder=Path(folder) if (folder := environ.get("WORKER_LOCK_FOLDER")) else None,
            is_restarting=_choice(environ, "WORKER_RESTART", "off", "on") == "on",
            heartbeat_seconds=_whole(
                environ, "WORKER_HEARTBEAT_SECONDS", _DEFAULT_HEARTBEAT_SECONDS, 0, 3600
            ),
            lock_seconds=_whole(environ, "WORKER_LOCK_SECONDS", 0, 0, 300),
            broken_model_seconds=_seconds(environ, "WORKER_BROKEN_MODEL_SECONDS", 0.0),
        )


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """The settings of the commands in `worker.tools`.

    `payload_storage` is needed only for weights in a blob. It is None if the setting is missing.
    `memory` is used only if `worker.tools.check` measures a model under load.
    """

    catalogue: Path
    weights: WeightsSettings
    torch_threads: int
    payload_storage: AzureEndpoint | None
    guard: AddressGuard
    memory: MemorySettings = field(default_factory=MemorySettings)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "CheckSettings":
        """Read the settings from environment variables. Raises SettingsError for a wrong value."""
        try:
            storage = _endpoint(environ, SETTING_PAYLOAD_STORAGE, "blobServiceUri")
        except SettingsError:
            storage = None
        return cls(
            catalogue=Path(environ.get(SETTING_CATALOGUE) or DEFAULT_PATH),
            weights=_weights(environ),
            torch_threads=_whole(
                environ, "TORCH_THREADS", torch_threads(available_processors()), 1, 1024
            ),
            payload_storage=storage,
            guard=_read(environ, SETTING_GUARD_ALLOW, AddressGuard),
            memory=_memory(environ),
        )


def _endpoint(environ: Mapping[str, str], name: str, suffix: str) -> AzureEndpoint:
    if connection_string := environ.get(name):
        return AzureEndpoint(connection_string=connection_string)
    if address := environ.get(f"{name}__{suffix}"):
        return AzureEndpoint(address=address)
    raise SettingsError(
        f"{name}: the setting is missing; set it to a connection string, or set {name}__{suffix} "
        "to use a managed identity"
    )


def _weights(environ: Mapping[str, str]) -> WeightsSettings:
    offline = environ.get("HF_HUB_OFFLINE", "").lower()
    if offline not in (*_YES, *_NO):
        raise SettingsError(f"HF_HUB_OFFLINE: expected 1 or 0, found {offline!r}")
    hub = _hub(environ)
    return WeightsSettings(
        cache=_weights_cache(environ),
        cache_limit_bytes=_size(environ, "WORKER_WEIGHTS_CACHE_SIZE"),
        hub=None if offline in _YES else hub,
    )


def _hub(environ: Mapping[str, str]) -> HubSettings:
    endpoint = (environ.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/")
    token = environ.get("HF_TOKEN", "").strip()
    found = _HUB_ADDRESS.fullmatch(endpoint)
    if found is None:
        raise SettingsError(
            f"HF_ENDPOINT: expected a URL such as {DEFAULT_HUB}, found {endpoint!r}"
        )
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError(
            "HF_TOKEN: the token has characters that an HTTP header cannot contain; copy the token "
            "again"
        )
    if token and found[1] == "http" and found[2] not in _LOOPBACK:
        raise SettingsError(
            "HF_ENDPOINT: expected https://, because HF_TOKEN is set and must not be sent without "
            "TLS"
        )
    return HubSettings(endpoint, token)


def _weights_cache(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("WORKER_WEIGHTS_CACHE"):
        return Path(chosen)
    caches = environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "loosely" / "weights"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _hosts(environ: Mapping[str, str]) -> frozenset[str]:
    names = _names(environ.get("REPLY_HOSTS", ""))
    if not names:
        raise SettingsError(
            "REPLY_HOSTS: the setting is missing; set it to the gateway's address, host:port"
        )
    hosts = set()
    for name in names:
        if (found := _REPLY_HOST.fullmatch(name)) is None:
            raise SettingsError(
                "REPLY_HOSTS: expected host:port or host:port/path, optionally with http:// before "
                f"the host, found {name!r}"
            )
        hosts.add(found["address"].lower() + found["path"])
    return frozenset(hosts)


def _whole(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
        raise SettingsError(f"{name}: expected a whole number from {low} to {high}, found {text!r}")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 24 * 3600:
        raise SettingsError(f"{name}: expected a number of seconds from 0 to 86400, found {text!r}")
    return value


def _read(environ: Mapping[str, str], name: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(environ.get(name, ""))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def _choice(environ: Mapping[str, str], name: str, default: str, *others: str) -> str:
    text = (environ.get(name) or default).lower()
    if text not in (default, *others):
        known = " or ".join((default, *others))
        raise SettingsError(f"{name}: expected {known}, found {text!r}")
    return text


def _exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the trace exporters; empty if OTEL_SDK_DISABLED is `true`.

    OpenTelemetry reads the other OTEL_* variables itself.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    return tuple(name for name in _names(environ.get("OTEL_TRACES_EXPORTER", "")) if name != "none")


def _scheduled_events(environ: Mapping[str, str]) -> ScheduledEventSettings:
    mode = _choice(environ, "WORKER_SCHEDULED_EVENTS", *ScheduledEventMode)
    address = environ.get("WORKER_METADATA_URL") or METADATA_ADDRESS
    if not _HTTP_ADDRESS.fullmatch(address):
        raise SettingsError(f"WORKER_METADATA_URL: expected http://host[:port], found {address!r}")
    return ScheduledEventSettings(
        ScheduledEventMode(mode), address, environ.get("WORKER_MACHINE", "")
    )


def _memory(environ: Mapping[str, str]) -> MemorySettings:
    return MemorySettings(
        budget_bytes=_size(environ, "WORKER_DEVICE_MEMORY"),
        folder=Path(environ.get("WORKER_MEMORY_FOLDER") or _default_memory_folder()),
        is_admitting=_choice(environ, "WORKER_ADMISSION", "on", "off") == "on",
        turn_seconds=_seconds(environ, "WORKER_TURN_SECONDS", _DEFAULT_TURN_SECONDS),
        card_shares=_whole(environ, "WORKER_CARD_SHARES", 1, 1, 64),
        is_cuda_required=_choice(environ, "WORKER_REQUIRE_DEVICE", "any", "cuda") == "cuda",
    )


def _default_memory_folder() -> Path:
    """Return the default folder for the reservations of device memory.

    All workers of this user on this machine share the folder.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"loosely-memory-{user}"


def _size(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise SettingsError(f"{name}: expected a size such as 8GiB or 512MiB, found {text!r}")
    return int(found[1]) << _SHIFTS[found[2]]


def _level(environ: Mapping[str, str]) -> str:
    text = (environ.get("LOG_LEVEL") or "info").upper()
    if text not in logging.getLevelNamesMapping():
        raise SettingsError(f"LOG_LEVEL: expected debug, info, warning or error, found {text!r}")
    return text
