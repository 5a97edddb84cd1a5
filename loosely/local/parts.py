"""The components of Loosely that `loosely up` starts: their commands, ports and settings."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loosely.local.broker_server import SETTING_PASSWORD, USER
from loosely.local.ports import Ports
from loosely.local.probe import Probe

# The storage account of Azure's emulators and its key. Microsoft publishes both, so they are not
# secret.
_STORAGE_ACCOUNT = "devstoreaccount1"
_STORAGE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_HOST = "127.0.0.1"
_PUBLIC_POLICY, _PUBLIC_KEY = "RootManageSharedAccessKey", "SAS_KEY_VALUE"
#: The rights of each shared access policy in the local Service Bus. The gateway counts messages
#: with the management API, which needs Manage, which needs the other rights.
SERVICE_BUS_RIGHTS: Mapping[str, tuple[str, ...]] = {
    "gateway": ("Listen", "Send", "Manage"),
    "worker": ("Listen", "Send"),
}
#: The file in the data directory with these policies and their keys, which Service Bus reads.
SERVICE_BUS_POLICIES_FILE = "servicebus-policies.json"
#: The brokers, each the name of its component. The local Service Bus needs no other program.
BROKERS = ("servicebus", "rabbitmq", "redis")


def part_names(broker: str = BROKERS[0]) -> tuple[str, ...]:
    """Return the names of the components. Each depends only on components before it."""
    return "blobs", broker, "functions", "worker"


PART_NAMES = part_names()


@dataclass(frozen=True, slots=True)
class Preparation:
    """A command that runs before components start, and the files for the command's output.

    It checks ``temporary``, a copy of the user's ``catalogue``, which then replaces ``checked``.
    """

    command: tuple[str, ...]
    #: The files, with their names in the JSON object that the command prints.
    outputs: tuple[tuple[str, Path], ...]
    catalogue: Path | None = None
    temporary: Path = Path()
    checked: Path = Path()

    def read_contents(self, printed: bytes) -> dict[Path, bytes]:
        """Return the content of each file from what the command has printed."""
        texts: dict[str, str] = json.loads(printed)
        return {path: texts[name].encode() for name, path in self.outputs}


@dataclass(frozen=True, slots=True)
class Part:
    """A component of the local system, which runs as one process."""

    name: str
    summary: str
    address: str
    command: tuple[str, ...]
    probe: Probe
    ports: Mapping[str, int]
    #: The variables that only this component receives, such as keys.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    preparation: Preparation | None = None
    #: A page that returns the state of the component's models as JSON, if it runs models.
    models: Probe | None = None
    #: How many seconds a stop may take before the component is killed.
    drain_seconds: float = 10.0
    #: Whether the component reads its changed files at SIGHUP, without an interruption.
    can_reload: bool = False


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """The settings that determine the components' commands and environments."""

    #: The directory that contains the components' source.
    root: Path
    data: Path
    ports: Ports
    reply_token_key: str = field(repr=False)
    log_level: str
    #: The path of the user's own model catalogue. Default: the repository's catalogue.
    catalogue: Path | None = None
    engine_options: tuple[str, ...] = ()
    #: Whether the gateway's app has a process of its own beside the Functions host.
    is_isolated: bool = False
    #: Host names, besides the loopback names, for which the local services answer requests.
    allowed_hosts: tuple[str, ...] = ()
    #: Origins whose web pages may use the gateway, and so the links to uploads and results.
    cors_origins: tuple[str, ...] = ()
    #: The models that the workers serve, separated by commas. Empty if they serve all models.
    served_models: str = ""
    is_watching: bool = False
    #: By policy. Empty for the public key of Microsoft's emulator, if its Service Bus runs.
    service_bus_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    broker: str = BROKERS[0]
    #: Of RabbitMQ or Redis.
    broker_password: str = field(default="", repr=False)

    @property
    def service_options(self) -> tuple[str, ...]:
        """The command-line options that all local services have in common."""
        hosts = (word for name in self.allowed_hosts for word in ("--allow-host", name))
        return ("--log-level", self.log_level, *hosts)

    @property
    def catalogue_environment(self) -> dict[str, str]:
        """The environment variable that names the user's model catalogue, if there is one."""
        return {} if self.catalogue is None else {"MODEL_CATALOGUE": str(self.checked_catalogue)}

    @property
    def checked_catalogue(self) -> Path:
        """The copy of the user's model catalogue that the components read."""
        return self.data / "models.toml"

    @property
    def queues_file(self) -> Path:
        """The file from which the local Service Bus reads its queues."""
        return self.data / "servicebus.json"

    @property
    def host_settings_file(self) -> Path:
        """The file from which the Functions host reads the gateway's settings."""
        return self.data / "functions-settings.json"

    @property
    def gateway_url(self) -> str:
        """The URL of the gateway's REST API."""
        return f"http://{_HOST}:{self.ports.functions}"

    @property
    def blob_origins(self) -> tuple[str, ...]:
        """The origins whose pages may use links to blobs, with the gateway's own."""
        own = (f"http://{name}:{self.ports.functions}" for name in (_HOST, "localhost"))
        return (*own, *self.cors_origins)

    @property
    def storage_connection(self) -> str:
        """The connection string of the local blob storage."""
        return storage_connection_string(self.ports.blobs)

    def broker_environment(self, policy: str) -> dict[str, str]:
        """Return the variables with which a component finds the broker."""
        at = f"{_HOST}:{self.ports.servicebus}"
        match self.broker:
            case "rabbitmq":
                return {"BROKER_URL": f"amqp://{USER}:{self.broker_password}@{at}/%2F"}
            case "redis":
                return {"BROKER_URL": f"redis://:{self.broker_password}@{at}/0"}
        # A value of the user would choose another broker.
        return {"BROKER_URL": "", "SERVICE_BUS": self.service_bus_connection(policy)}

    def service_bus_connection(self, policy: str) -> str:
        """Return the connection string for a policy, or for the public one if it has no key."""
        key = self.service_bus_keys.get(policy)
        if key is None:
            policy, key = _PUBLIC_POLICY, _PUBLIC_KEY
        return (
            f"Endpoint=sb://localhost:{self.ports.servicebus};"
            f"SharedAccessKeyName={policy};SharedAccessKey={key};UseDevelopmentEmulator=true;"
        )


def storage_connection_string(port: int) -> str:
    """Return the connection string of the local blob storage that listens on ``port``."""
    return (
        "DefaultEndpointsProtocol=http;"
        f"AccountName={_STORAGE_ACCOUNT};AccountKey={_STORAGE_KEY};"
        f"BlobEndpoint=http://{_HOST}:{port}/{_STORAGE_ACCOUNT};"
    )


def loosely_parts(settings: SystemSettings) -> tuple[Part, ...]:
    """Return all components. Each component depends only on earlier components in the result."""
    broker = _servicebus if settings.broker == "servicebus" else _broker_server
    return _blobs(settings), broker(settings), _functions(settings), worker_part(settings)


def _blobs(settings: SystemSettings) -> Part:
    port = settings.ports.blobs
    return Part(
        name="blobs",
        summary="Blob storage for large payloads",
        address=f"http://{_HOST}:{port}/{_STORAGE_ACCOUNT}",
        command=python_command(
            "emulator.blobs",
            *("--port", str(port)),
            *("--data", str(settings.data / "blobs")),
            *(word for origin in settings.blob_origins for word in ("--cors-origin", origin)),
            *settings.service_options,
        ),
        probe=Probe(port, status=None),
        ports={"blobs": port},
    )


def _servicebus(settings: SystemSettings) -> Part:
    port, admin_port = settings.ports.servicebus, settings.ports.servicebus_admin
    # The keys are in a file, because all users of the machine can read the command.
    policies = (
        ("--policies", str(settings.data / SERVICE_BUS_POLICIES_FILE))
        if settings.service_bus_keys
        else ()
    )
    return Part(
        name="servicebus",
        summary="Service Bus with a queue for each model",
        address=f"sb://localhost:{port}",
        command=python_command(
            "emulator.servicebus",
            *("--config", str(settings.queues_file)),
            *policies,
            *("--port", str(port)),
            *("--admin-port", str(admin_port)),
            *("--data", str(settings.data / "servicebus")),
            *settings.service_options,
        ),
        probe=Probe(admin_port, "/health"),
        ports={"servicebus": port, "servicebus admin": admin_port},
        preparation=_prepare(settings),
        can_reload=True,
    )


def _broker_server(settings: SystemSettings) -> Part:
    port, dist_port = settings.ports.servicebus, settings.ports.servicebus_admin
    is_redis = settings.broker == "redis"
    return Part(
        name=settings.broker,
        summary="Redis with a stream for each model" if is_redis else "RabbitMQ",
        address=f"{'redis' if is_redis else 'amqp'}://{_HOST}:{port}",
        command=python_command(
            "loosely.local.broker_server",
            settings.broker,
            *("--port", str(port), "--dist-port", str(dist_port)),
            *("--data", str(settings.data / settings.broker)),
        ),
        probe=Probe(port, is_http=False),
        ports={settings.broker: port},
        environment={SETTING_PASSWORD: settings.broker_password},
    )


def _functions(settings: SystemSettings) -> Part:
    port = settings.ports.functions
    return Part(
        name="functions",
        summary="REST API on Durable Functions",
        address=settings.gateway_url,
        command=python_command(
            "emulator.functions",
            *("--app", str(settings.root / "functions")),
            *("--port", str(port)),
            *("--data", str(settings.data / "functions")),
            *("--settings", str(settings.host_settings_file)),
            # `loosely up` has a restart of its own, and the gateway logs its requests.
            *("--no-reload", "--no-request-log"),
            *settings.service_options,
            *settings.engine_options,
            *(("--isolated",) if settings.is_isolated else ()),
        ),
        probe=Probe(port, "/v1/health/ready"),
        ports={"functions": port},
        environment={
            "AzureWebJobsStorage": settings.storage_connection,
            "PAYLOAD_STORAGE": settings.storage_connection,
            **settings.broker_environment("gateway"),
            "SERVICE_BUS_ADMIN_URL": f"http://{_HOST}:{settings.ports.servicebus_admin}",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "PYTHON_ENABLE_INIT_INDEXING": "1",
            "GATEWAY_BASE_URL": settings.gateway_url,
            "REPLY_TOKEN_KEYS": settings.reply_token_key,
            **settings.catalogue_environment,
        },
        preparation=_prepare(settings),
        can_reload=True,
    )


def _prepare(settings: SystemSettings) -> Preparation:
    """Return the preparation of Service Bus and the gateway, which they share."""
    temporary = settings.data / "models.new.toml"
    # The local Service Bus has queues only for the models that are served.
    is_served = settings.served_models and settings.broker == BROKERS[0]
    served = ("--served", settings.served_models) if is_served else ()
    catalogue = () if settings.catalogue is None else (str(temporary),)
    return Preparation(
        python_command("contract", "local", *served, *catalogue),
        (("queues", settings.queues_file), ("host-settings", settings.host_settings_file)),
        settings.catalogue,
        temporary,
        settings.checked_catalogue,
    )


def worker_part(
    settings: SystemSettings, number: int | None = None, port: int | None = None
) -> Part:
    """Return the worker, or worker ``number`` of a pool, whose health endpoint has this port."""
    # Jobs do not wait for a broken model if no other worker can have a better one, or if the user
    # is working on it.
    is_refusing = port is None or settings.is_watching
    port = port or settings.ports.worker_health
    return Part(
        name="worker" if number is None else f"worker-{number}",
        summary="PyTorch worker",
        address=f"http://{_HOST}:{port}/ready",
        command=python_command("worker"),
        # A worker that has set a broken model aside and serves the others is ready here.
        probe=Probe(port, "/started"),
        models=Probe(port, "/ready", status=None),
        ports={"worker health": port},
        environment={
            **settings.broker_environment("worker"),
            "PAYLOAD_STORAGE": settings.storage_connection,
            "REPLY_HOSTS": f"{_HOST}:{settings.ports.functions}",
            "HEALTH_HOST": _HOST,
            "HEALTH_PORT": str(port),
            "LOG_LEVEL": settings.log_level,
            "WORKER_RESTART": "on",
            "WORKER_LOCK_FOLDER": str(settings.data / "locks"),
            **({"WORKER_BROKEN_MODEL_SECONDS": "30"} if is_refusing else {}),
            **settings.catalogue_environment,
        },
        # The worker drains for up to 30 s and then settles its messages.
        drain_seconds=35.0,
    )


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module of a component with this interpreter."""
    # -P: a file such as worker.py in the current directory must not replace one of our modules.
    return (sys.executable, "-P", "-m", module, *arguments)
