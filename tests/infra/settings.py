"""Check that the deployment sets exactly the environment variables that the code reads."""

import json
import re

from gateway.settings import GatewaySettings
from tests.infra.deployment import DeploymentFiles, of_kind, pod
from tests.infra.readings import names_read
from worker.settings import WorkerSettings

STORAGE_PROVIDER = "AzureFunctionsJobHost__extensions__durableTask__storageProvider__"
# Names of the extension's AzureStorageOptions. Both values are the minimum of the extension.
VISIBILITY_TIMEOUTS = {
    "controlQueueVisibilityTimeout": "00:01:00",
    "workItemQueueVisibilityTimeout": "00:01:00",
}
STORAGE_PROVIDER_NAMES = (
    *("type", "connectionStringName", "maxQueuePollingInterval"),
    *VISIBILITY_TIMEOUTS,
)

# Settings that the platform or an SDK reads.
PLATFORM = {
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT",
    "PYTHON_ENABLE_INIT_INDEXING",
    "AzureWebJobsDisableHomepage",
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "AZURE_CLIENT_ID",
    "SERVICE_BUS__credential",
    "SERVICE_BUS__clientId",
    "DURABLE_TASK_SCHEDULER_CONNECTION_STRING",
    *(f"{STORAGE_PROVIDER}{name}" for name in STORAGE_PROVIDER_NAMES),
    "NVIDIA_VISIBLE_DEVICES",
}
# Variables that the image sets for Python.
IMAGE = {"PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
# Settings whose default is right in Azure. docs/reference/settings.md describes them.
LEFT_TO_DEFAULTS = {
    "gateway": {
        "SERVICE_BUS",
        # A deployment to Azure uses Service Bus and Blob Storage.
        "BROKER_URL",
        "OBJECT_STORE_URL",
        "OBJECT_STORE_ENDPOINT",
        "PAYLOAD_STORAGE",
        "MODEL_CATALOGUE",
        "INLINE_LIMIT_BYTES",
        "BODY_MEMORY_BYTES",
        "DEFAULT_WAIT_SECONDS",
        "TRUST_PRINCIPAL_HEADER",
        "PAYLOAD_PUBLIC_URL",
        "SERVICE_BUS_ADMIN_URL",
        "ACCEPT_WHEN_SATURATED",
        "URL_INPUT_RATE",
        # Append blobs store streams, until an operator has a Redis.
        "STREAM_REDIS_URL",
        "MAX_STREAMS",
        "MAX_TENANT_STREAMS",
        "HEARTBEATS",
        "MINUTE_SUMS",
        "SHARES",
        "GUARD_ALLOW",
        "OTEL_SDK_DISABLED",
    },
    "worker": {
        "SERVICE_BUS",
        "BROKER_URL",
        "OBJECT_STORE_URL",
        "OBJECT_STORE_ENDPOINT",
        "PAYLOAD_STORAGE",
        "MODEL_CATALOGUE",
        "TORCH_THREADS",
        "GUARD_ALLOW",
        "OTEL_SDK_DISABLED",
        "XDG_CACHE_HOME",
        # Only for models that need a GPU.
        "WORKER_REQUIRE_DEVICE",
        "WORKER_METADATA_URL",
        "WORKER_MACHINE",
        "WORKER_DEVICE_MEMORY",
        "WORKER_ADMISSION",
        "WORKER_TURN_SECONDS",
        "WORKER_INPUT_MEMORY",
        "WORKER_HEARTBEAT_SECONDS",
        # In a cluster, another worker may have a model that is not broken.
        "WORKER_BROKEN_MODEL_SECONDS",
        "WORKER_SPARE",
        # One worker per GPU, except with time slicing.
        "WORKER_CARD_SHARES",
        # Container Apps send no scheduled events, and there each container has its own folders.
        "WORKER_SCHEDULED_EVENTS",
        "WORKER_WEIGHTS_CACHE",
        # Append blobs store streams, until an operator has a Redis.
        "STREAM_REDIS_URL",
        "RETENTION_HOURS",
        # Workers in Azure read weights from blob storage only.
        "HF_ENDPOINT",
        "HF_TOKEN",
        # On Container Apps, the container's disk is the limit.
        "WORKER_WEIGHTS_CACHE_SIZE",
        "WORKER_MEMORY_FOLDER",
        "LOG_LEVEL",
    },
}


def gateway_settings_are_set_and_read(files: DeploymentFiles) -> None:
    """Check that the gateway's template sets exactly the settings that the gateway reads.

    Two sets contain the exceptions: the template must not set the settings in LEFT_TO_DEFAULTS, and
    it may set the settings in PLATFORM, which Azure reads.
    """
    template = files.module("gateway")
    names = set(re.findall(r"^  (\w+): ", template.partition("var common = {")[2], re.MULTILINE))
    body = re.findall(r"var (?:common|scheduler|histories) = \{\n(.*?)\n\}", template, re.DOTALL)
    names = {name for part in body for name in re.findall(r"^  (\w+):", part, re.MULTILINE)}
    read = names_read(GatewaySettings)
    assert names - PLATFORM - read == set(), "set but not read"
    assert read - names == LEFT_TO_DEFAULTS["gateway"], (
        "read but neither set nor left to its default"
    )
    for name in ("REPLY_TOKEN_KEYS", "WEBHOOK_SECRETS", "API_KEYS"):
        secret = name.lower().replace("_", "-")
        reference = f"{name}: '@Microsoft.KeyVault(SecretUri=${{vaultUri}}secrets/{secret}/)'"
        assert reference in template
        assert secret in files.text("infra/scripts/keys.sh")


def the_platform_can_scale_the_gateway(files: DeploymentFiles) -> None:
    """Check that an instance of the gateway runs when an orchestration must continue.

    Azure starts an instance for this only if the Durable Task Scheduler stores the orchestrations,
    so host.json must select the scheduler. If a deployment stores the orchestrations in Azure
    Storage instead, the template must keep at least one instance always ready.
    """
    durable = json.loads(files.text("functions/host.json"))["extensions"]["durableTask"]
    setting = durable["storageProvider"]["connectionStringName"]
    assert durable["storageProvider"]["type"] == "azureManaged"
    template = files.module("gateway")
    assert f"var scheduler = {{\n  {setting}: 'Endpoint=" in template
    assert f"var histories = {{\n  {STORAGE_PROVIDER}type: 'AzureStorage'" in template
    assert "empty(durableEndpoint) ? max(1, leastCount) : leastCount" in template
    assert f"resource hub 'taskHubs' = {{ name: '{durable['hubName']}' }}" in files.module(
        "durable"
    )


def messages_of_a_dead_host_are_visible_after_a_minute(files: DeploymentFiles) -> None:
    template = files.module("gateway")
    [histories] = re.findall(r"var histories = \{\n(.*?)\n\}", template, re.DOTALL)
    for name, value in VISIBILITY_TIMEOUTS.items():
        assert f"  {STORAGE_PROVIDER}{name}: '{value}'" in histories.splitlines()
    durable = json.loads(files.text("functions/host.json"))["extensions"]["durableTask"]
    assert not durable["storageProvider"].keys() & VISIBILITY_TIMEOUTS.keys()


def worker_settings_are_set_and_read(files: DeploymentFiles) -> None:
    read = names_read(WorkerSettings)
    for overlay, manifests in files.overlays.items():
        maps = {each["metadata"]["name"]: each for each in of_kind(manifests, "ConfigMap")}
        for deployment in of_kind(manifests, "Deployment"):
            for container in pod(deployment)["containers"]:
                names = {each["name"] for each in container["env"]}
                for source in container["envFrom"]:
                    names |= maps[source["configMapRef"]["name"]]["data"].keys()
                assert names - PLATFORM - read == set(), (overlay, "set but not read")
                assert read - names <= LEFT_TO_DEFAULTS["worker"], (overlay, read - names)
    apps = set(re.findall(r"^ {2,4}([A-Z]\w+): ", files.module("worker-aca"), re.MULTILINE))
    assert apps - PLATFORM - read == set()
    missing = read - apps - image_environment(files).keys()
    assert missing <= LEFT_TO_DEFAULTS["worker"], missing
    assert image_environment(files).keys() - IMAGE - read == set()


def image_environment(files: DeploymentFiles) -> dict[str, str]:
    """Return the environment variables that the last stage of the worker's Dockerfile sets."""
    last = files.text("worker/Dockerfile").split("\nFROM ")[-1].replace("\\\n", " ")
    [line] = re.findall(r"^ENV (.*)$", last, re.MULTILINE)
    return dict(part.split("=", 1) for part in line.split())
