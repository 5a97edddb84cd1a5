"""Loosely's own parts: the table of what ``up`` starts, and with which settings."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from loosely.up.parts import Part, Preparation, Probe
from loosely.up.ports import Ports

# The storage emulators' account, the same on every machine and published by Microsoft.
_STORAGE_ACCOUNT = "devstoreaccount1"
_STORAGE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_HOST = "127.0.0.1"
PART_NAMES = ("blobs", "servicebus", "functions", "worker")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the table depends on."""

    root: Path
    data: Path
    ports: Ports
    reply_token_key: str = field(repr=False)
    log_level: str
    #: The model catalogue, when the user has another than the repository's.
    catalogue: Path | None = None
    #: The durable engine's options, as the Functions host takes them.
    engine_options: tuple[str, ...] = ()

    @property
    def models(self) -> dict[str, str]:
        """The setting that names another catalogue, absolute since parts run elsewhere."""
        return {} if self.catalogue is None else {"MODEL_CATALOGUE": str(self.catalogue)}

    @property
    def gateway_url(self) -> str:
        """Where users reach the REST API."""
        return f"http://{_HOST}:{self.ports.functions}"

    @property
    def storage(self) -> str:
        """The connection string of the blob storage."""
        return storage_of(self.ports.blobs)

    @property
    def service_bus(self) -> str:
        """The connection string of the Service Bus, in the official emulator's form."""
        return (
            f"Endpoint=sb://localhost:{self.ports.servicebus};"
            "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
            "UseDevelopmentEmulator=true;"
        )


def storage_of(port: int) -> str:
    """The connection string of the blob storage that listens on this port."""
    return (
        "DefaultEndpointsProtocol=http;"
        f"AccountName={_STORAGE_ACCOUNT};AccountKey={_STORAGE_KEY};"
        f"BlobEndpoint=http://{_HOST}:{port}/{_STORAGE_ACCOUNT};"
    )


def loosely_parts(settings: Settings) -> tuple[Part, ...]:
    """Return the parts in the order in which they rely on one another."""
    return (
        _blobs(settings),
        _servicebus(settings),
        _functions(settings),
        _worker(settings),
    )


def _blobs(settings: Settings) -> Part:
    port = settings.ports.blobs
    return Part(
        name="blobs",
        summary="Blob storage for large payloads",
        address=f"http://{_HOST}:{port}/{_STORAGE_ACCOUNT}",
        command=_python(
            "emulator.blobs",
            *("--port", str(port)),
            *("--data", str(settings.data / "blobs")),
            *("--log-level", settings.log_level),
        ),
        probe=Probe(port, status=None),
        ports={"blobs": port},
    )


def _servicebus(settings: Settings) -> Part:
    port, admin_port = settings.ports.servicebus, settings.ports.servicebus_admin
    config = settings.data / "servicebus.json"
    catalogue = () if settings.catalogue is None else (str(settings.catalogue),)
    return Part(
        name="servicebus",
        summary="Service Bus with a queue for each model",
        address=f"sb://localhost:{port}",
        command=_python(
            "emulator.servicebus",
            *("--config", str(config)),
            *("--port", str(port)),
            *("--admin-port", str(admin_port)),
            *("--data", str(settings.data / "servicebus")),
            *("--log-level", settings.log_level),
        ),
        probe=Probe(admin_port, "/health"),
        ports={"servicebus": port, "servicebus admin": admin_port},
        preparation=Preparation(_python("contract.queues", *catalogue), config),
    )


def _functions(settings: Settings) -> Part:
    port = settings.ports.functions
    return Part(
        name="functions",
        summary="REST API on Durable Functions",
        address=settings.gateway_url,
        command=_python(
            "emulator.functions",
            *("--app", str(settings.root / "functions")),
            *("--port", str(port)),
            *("--data", str(settings.data / "functions")),
            *("--log-level", settings.log_level),
            *settings.engine_options,
        ),
        probe=Probe(port, "/v1/health/ready"),
        ports={"functions": port},
        environment={
            "AzureWebJobsStorage": settings.storage,
            "PAYLOAD_STORAGE": settings.storage,
            "SERVICE_BUS": settings.service_bus,
            "SERVICE_BUS_ADMIN_URL": f"http://{_HOST}:{settings.ports.servicebus_admin}",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "GATEWAY_BASE_URL": settings.gateway_url,
            "REPLY_TOKEN_KEYS": settings.reply_token_key,
            **settings.models,
        },
    )


def worker_replica(settings: Settings, number: int, port: int) -> Part:
    """Return one of several workers, with its health on ``port``."""
    return _worker(settings, f"worker-{number}", port)


def _worker(settings: Settings, name: str = "worker", port: int | None = None) -> Part:
    port = port or settings.ports.worker_health
    return Part(
        name=name,
        summary="PyTorch worker",
        address=f"http://{_HOST}:{port}/ready",
        command=_python("worker"),
        probe=Probe(port, "/ready"),
        ports={"worker health": port},
        environment={
            "SERVICE_BUS": settings.service_bus,
            "PAYLOAD_STORAGE": settings.storage,
            "REPLY_HOSTS": f"{_HOST}:{settings.ports.functions}",
            "HEALTH_HOST": _HOST,
            "HEALTH_PORT": str(port),
            "LOG_LEVEL": settings.log_level,
            **settings.models,
        },
        # The worker gives itself 30 s for what it holds; then it still has to settle.
        drain_seconds=35.0,
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
