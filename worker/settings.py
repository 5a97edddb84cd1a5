"""The worker's settings, read once from the environment: docs/reference/settings.md."""

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
from contract.settings import AzureEndpoint, BrokerEndpoint, S3Endpoint, SettingsReader
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
DEFAULT_HEARTBEAT_SECONDS = 5
DEFAULT_RETENTION_HOURS = 72


class ScheduledEventMode(StrEnum):
    """What the worker does if a scheduled event will stop its machine.

    With ACKNOWLEDGE, it shuts down, and then allows Azure to start the event at once.
    """

    OFF = "off"
    DRAIN = "drain"
    ACKNOWLEDGE = "acknowledge"


@dataclass(frozen=True, slots=True)
class ScheduledEventSettings:
    """How to poll the metadata service, which also knows this machine's name if it is empty."""

    mode: ScheduledEventMode = ScheduledEventMode.OFF
    address: str = METADATA_ADDRESS
    machine: str = ""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How to download weights from the Hugging Face Hub."""

    endpoint: str = DEFAULT_HUB
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """The folder for downloaded weights. Without `hub`, its weights are read from blob storage."""

    cache: Path = field(default_factory=Path)
    cache_limit_bytes: int | None = None
    hub: HubSettings | None = None


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """How the worker uses the device's memory. `budget_bytes` is that of a simulated device.

    The processes that use the same device store their reservations in the `folder`. `card_shares`
    pods share one GPU but no folder.
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

    Without `models`, the worker runs all models. Without `heartbeat_seconds`, it writes no
    heartbeats. Without `broken_model_seconds`, the jobs of a broken model wait. Without
    `stream_redis_url`, streams are append blobs; in Redis, they are kept for `retention_hours`.
    """

    broker: BrokerEndpoint
    payload_storage: AzureEndpoint | S3Endpoint
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
    has_spare: bool = True
    heartbeat_seconds: int = 0
    lock_seconds: int = 0
    broken_model_seconds: float = 0.0
    stream_redis_url: str | None = field(default=None, repr=False)
    retention_hours: int = DEFAULT_RETENTION_HOURS

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "WorkerSettings":
        """Read the settings. Raises InvalidSetting for the first setting that is wrong."""
        reader = SettingsReader(environ)
        return cls(
            broker=reader.broker(),
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
            has_spare=reader.choice("WORKER_SPARE", "on", "off") == "on",
            heartbeat_seconds=reader.whole(
                "WORKER_HEARTBEAT_SECONDS", DEFAULT_HEARTBEAT_SECONDS, 0, 3600
            ),
            lock_seconds=reader.whole("WORKER_LOCK_SECONDS", 0, 0, 300),
            broken_model_seconds=reader.seconds("WORKER_BROKEN_MODEL_SECONDS", 0.0),
            stream_redis_url=reader.redis_url(),
            retention_hours=reader.whole("RETENTION_HOURS", DEFAULT_RETENTION_HOURS, 1, 10_000),
        )


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """The settings of `worker.tools`. Only weights in a blob need `payload_storage`."""

    catalogue: Path
    weights: WeightsSettings
    torch_threads: int
    payload_storage: AzureEndpoint | S3Endpoint | None
    guard: AddressGuard
    memory: MemorySettings = field(default_factory=MemorySettings)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "CheckSettings":
        """Read the settings. Raises InvalidSetting for the first setting that is wrong."""
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
