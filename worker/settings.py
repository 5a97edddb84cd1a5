"""The worker's settings, which are read once from environment variables."""

import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from contract.errors import InvalidSetting
from contract.guard import AddressGuard
from contract.settings import AzureEndpoint, SettingsReader
from worker.processes.setup import available_processors, torch_threads

PLAIN_HTTP = "http://"
"""An entry of REPLY_HOSTS with this prefix permits replies without TLS to the host in the entry."""

DEFAULT_HUB = "https://huggingface.co"
METADATA_ADDRESS = "http://169.254.169.254"

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
            InvalidSetting: A variable is missing or wrong. The error's text names the variable.
        """
        reader = SettingsReader(environ)
        return cls(
            service_bus=reader.service_bus(),
            payload_storage=reader.payload_storage(),
            catalogue=reader.catalogue_path(),
            models=reader.names("WORKER_MODELS"),
            reply_hosts=_reply_hosts(reader),
            health_host=reader.text("HEALTH_HOST", "127.0.0.1"),
            health_port=reader.whole("HEALTH_PORT", _DEFAULT_HEALTH_PORT, 0, 65535),
            drain_seconds=reader.seconds("WORKER_DRAIN_SECONDS", _DEFAULT_DRAIN_SECONDS),
            torch_threads=_torch_threads(reader),
            log_level=_log_level(reader),
            guard=reader.guard(),
            log_format=reader.choice("LOG_FORMAT", "text", "json"),
            trace_exporters=reader.trace_exporters(),
            scheduled_events=_scheduled_events(reader),
            weights=_weights(reader),
            memory=_memory(reader),
            input_memory_bytes=reader.size("WORKER_INPUT_MEMORY") or DEFAULT_INPUT_MEMORY_BYTES,
            lock_folder=Path(folder) if (folder := reader.text("WORKER_LOCK_FOLDER")) else None,
            is_restarting=reader.choice("WORKER_RESTART", "off", "on") == "on",
            heartbeat_seconds=reader.whole(
                "WORKER_HEARTBEAT_SECONDS", _DEFAULT_HEARTBEAT_SECONDS, 0, 3600
            ),
            lock_seconds=reader.whole("WORKER_LOCK_SECONDS", 0, 0, 300),
            broken_model_seconds=reader.seconds("WORKER_BROKEN_MODEL_SECONDS", 0.0),
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
        """Read the settings from environment variables. Raises InvalidSetting for a wrong value."""
        reader = SettingsReader(environ)
        return cls(
            catalogue=reader.catalogue_path(),
            weights=_weights(reader),
            torch_threads=_torch_threads(reader),
            payload_storage=reader.payload_storage() if reader.has_payload_storage() else None,
            guard=reader.guard(),
            memory=_memory(reader),
        )


def _torch_threads(reader: SettingsReader) -> int:
    return reader.whole("TORCH_THREADS", torch_threads(available_processors()), 1, 1024)


def _weights(reader: SettingsReader) -> WeightsSettings:
    offline = reader.text("HF_HUB_OFFLINE").lower()
    if offline not in (*_YES, *_NO):
        raise InvalidSetting(f"HF_HUB_OFFLINE: expected 1 or 0, found {offline!r}")
    hub = _hub(reader)
    return WeightsSettings(
        cache=_weights_cache(reader),
        cache_limit_bytes=reader.size("WORKER_WEIGHTS_CACHE_SIZE"),
        hub=None if offline in _YES else hub,
    )


def _hub(reader: SettingsReader) -> HubSettings:
    endpoint = reader.text("HF_ENDPOINT", DEFAULT_HUB).rstrip("/")
    token = reader.text("HF_TOKEN").strip()
    found = _HUB_ADDRESS.fullmatch(endpoint)
    if found is None:
        raise InvalidSetting(
            f"HF_ENDPOINT: expected a URL such as {DEFAULT_HUB}, found {endpoint!r}"
        )
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidSetting(
            "HF_TOKEN: the token has characters that an HTTP header cannot contain; copy the token "
            "again"
        )
    if token and found[1] == "http" and found[2] not in _LOOPBACK:
        raise InvalidSetting(
            "HF_ENDPOINT: expected https://, because HF_TOKEN is set and must not be sent without "
            "TLS"
        )
    return HubSettings(endpoint, token)


def _weights_cache(reader: SettingsReader) -> Path:
    if chosen := reader.text("WORKER_WEIGHTS_CACHE"):
        return Path(chosen)
    return Path(reader.text("XDG_CACHE_HOME") or Path.home() / ".cache") / "loosely" / "weights"


def _reply_hosts(reader: SettingsReader) -> frozenset[str]:
    names = reader.names("REPLY_HOSTS")
    if not names:
        raise InvalidSetting(
            "REPLY_HOSTS: the setting is missing; set it to the gateway's address, host:port"
        )
    hosts = set()
    for name in names:
        if (found := _REPLY_HOST.fullmatch(name)) is None:
            raise InvalidSetting(
                "REPLY_HOSTS: expected host:port or host:port/path, optionally with http:// before "
                f"the host, found {name!r}"
            )
        hosts.add(found["address"].lower() + found["path"])
    return frozenset(hosts)


def _scheduled_events(reader: SettingsReader) -> ScheduledEventSettings:
    mode = reader.choice("WORKER_SCHEDULED_EVENTS", *ScheduledEventMode)
    address = reader.text("WORKER_METADATA_URL", METADATA_ADDRESS)
    if not _HTTP_ADDRESS.fullmatch(address):
        raise InvalidSetting(f"WORKER_METADATA_URL: expected http://host[:port], found {address!r}")
    return ScheduledEventSettings(ScheduledEventMode(mode), address, reader.text("WORKER_MACHINE"))


def _memory(reader: SettingsReader) -> MemorySettings:
    return MemorySettings(
        budget_bytes=reader.size("WORKER_DEVICE_MEMORY"),
        folder=Path(reader.text("WORKER_MEMORY_FOLDER") or _default_memory_folder()),
        is_admitting=reader.choice("WORKER_ADMISSION", "on", "off") == "on",
        turn_seconds=reader.seconds("WORKER_TURN_SECONDS", _DEFAULT_TURN_SECONDS),
        card_shares=reader.whole("WORKER_CARD_SHARES", 1, 1, 64),
        is_cuda_required=reader.choice("WORKER_REQUIRE_DEVICE", "any", "cuda") == "cuda",
    )


def _default_memory_folder() -> Path:
    """Return the folder that all workers of this user on this machine share by default."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"loosely-memory-{user}"


def _log_level(reader: SettingsReader) -> str:
    text = reader.text("LOG_LEVEL", "info").upper()
    if text not in logging.getLevelNamesMapping():
        raise InvalidSetting(f"LOG_LEVEL: expected debug, info, warning or error, found {text!r}")
    return text
