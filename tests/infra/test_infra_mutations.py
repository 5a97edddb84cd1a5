"""Put one error into a copy of the deployment's files, and test that a check finds the error."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.catalogue import Catalogue
from contract.errors import CatalogueError
from infra.generate import make_files
from tests.infra.consistency import CHECKS
from tests.infra.deployment import ROOT, DeploymentFiles

COPIED = ["infra", "functions/contract", "functions/gateway", "worker", "azure.yaml"]
COPIED += [".dockerignore", "pyproject.toml", "functions/host.json", "functions/requirements.in"]

WORKERS = "infra/k8s/base/workers/"
MODELS = WORKERS + "models.yaml"

# A call with one argument on each line, as the formatter writes it.
BROKEN_CALL = """(
      'Microsoft.Authorization/roleDefinitions',
      roles.durableTaskDataContributor
    )"""

# (file, original text, faulty text)
FAULTS = [
    # Names, durations and limits of queues
    ("infra/catalogue.json", '"name": "classifier-low"', '"name": "classifier-slow"'),
    ("infra/catalogue.json", '"lockDuration": "PT60S"', '"lockDuration": "PT30S"'),
    ("infra/catalogue.json", '"maxDeliveryCount": 100', '"maxDeliveryCount": 3'),
    (WORKERS + "worker.env", "WORKER_LOCK_SECONDS=60", "WORKER_LOCK_SECONDS=10"),
    ("infra/modules/worker-aca.bicep", "WORKER_LOCK_SECONDS: '60'", "X: '60'"),
    ("infra/modules/servicebus.bicep", "lockDuration: each.lockDuration", "lockDuration: 'PT1M'"),
    ("infra/modules/servicebus.bicep", "requiresDuplicateDetection: true", "requiresSession: true"),
    ("infra/modules/servicebus.bicep", "disableLocalAuth: true", "disableLocalAuth: false"),
    (MODELS, "queueName: classifier\n", "queueName: classifer\n"),
    (MODELS, "messageCount: '5'", "messageCount: '50'"),
    # Workers that are kept without jobs
    (MODELS, "minReplicaCount: 0", "minReplicaCount: 1"),
    ("infra/catalogue.json", '"minWorkers": 0', '"minWorkers": 1'),
    ("infra/modules/worker-aca.bicep", ", model.minWorkers)", ", 0)"),
    ("infra/modules/worker-aca.bicep", "max(minReplicas, maxReplicas)", "maxReplicas"),
    ("infra/modules/worker-aca.bicep", ": model.maxWorkers,", ": maxReplicas,"),
    ("infra/modules/worker-aca.bicep", "in model.scaleRules", "in model.rules"),
    ("infra/modules/worker-aca.bicep", "'cron' ? null : keda.id", "'cron' ? keda.id : null"),
    ("infra/modules/worker-aca.bicep", "union(rule.metadata, ", "union({}, "),
    # Settings
    (
        "infra/modules/gateway.bicep",
        "  PAYLOAD_STORAGE__blobServiceUri:",
        "  PAYLOAD_STORAGE__uri:",
    ),
    ("infra/modules/gateway.bicep", "secrets/reply-token-keys/", "secrets/reply-keys/"),
    ("infra/modules/gateway.bicep", "  GATEWAY_BASE_URL: ", "  BASE_URL: "),
    ("functions/host.json", '"01:00:00"', '"00:05:00"'),
    ("functions/host.json", '"azureManaged"', '"AzureStorage"'),
    ("infra/modules/gateway.bicep", "max(1, leastCount)", "leastCount"),
    (
        "infra/modules/gateway.bicep",
        "VisibilityTimeout: '00:01:00'",
        "VisibilityTimeout: '00:05:00'",
    ),
    ("infra/modules/gateway.bicep", "__workItemQueueVisibility", "__workItemVisibility"),
    (WORKERS + "worker.env", "REPLY_HOSTS=", "REPLY_HOST="),
    (WORKERS + "worker.env", "HEALTH_HOST=0.0.0.0", "LISTEN_HOST=0.0.0.0"),
    ("infra/modules/worker-aca.bicep", "WORKER_DRAIN_SECONDS:", "DRAIN_SECONDS:"),
    # Ports and probes
    (WORKERS + "worker.env", "HEALTH_PORT=8081", "HEALTH_PORT=8080"),
    (MODELS, "path: /ready", "path: /live"),
    ("infra/modules/worker-aca.bicep", "path: '/ready', port: 8081", "path: '/ready', port: 80"),
    ("infra/modules/worker-aca.bicep", "failureThreshold: 10", "failureThreshold: 60"),
    ("infra/modules/worker-aca.bicep", "failureThreshold: 6", "failureThreshold: 3"),
    ("infra/modules/worker-aca.bicep", "timeoutSeconds: 5", "timeoutSeconds: 1"),
    ("infra/modules/worker-aca.bicep", "if (!empty(image)) {", "{"),
    ("worker/Dockerfile", "EXPOSE 8081", "EXPOSE 8080"),
    (WORKERS + "network-policy.yaml", "port: 8081", "port: 8082"),
    # The metadata service
    (WORKERS + "network-policy.yaml", "except: [169.254.169.254/32, ", "except: ["),
    ("infra/k8s/components/spot/kustomization.yaml", "cidr: 169.254", "cidr: 169.253"),
    ("infra/k8s/components/spot/kustomization.yaml", "WORKER_SCHEDULED_EVENTS", "WORKER_EVENTS"),
    # Identities
    ("infra/modules/cluster.bicep", "string = 'loosely:worker'", "string = 'default:worker'"),
    ("infra/modules/cluster.bicep", "kube-system:keda-operator'", "keda:keda-operator'"),
    (WORKERS + "service-account.yaml", "name: worker", "name: workers"),
    (MODELS, "azure.workload.identity/use: 'true'", "azure.workload.identity/use: 'false'"),
    ("infra/modules/cluster.bicep", "disableLocalAccounts: true", "disableLocalAccounts: false"),
    ("infra/modules/cluster-roles.bicep", "id, nodesPrincipalId, 'acrPull'", "id, 'acrPull'"),
    ("infra/modules/storage.bicep", "allowSharedKeyAccess: false", "allowSharedKeyAccess: true"),
    # Web pages
    ("infra/main.parameters.json", "${CORS_ORIGINS=}", "${CORS=}"),
    ("infra/modules/gateway.bicep", "  CORS_ORIGINS: corsOrigins\n", ""),
    ("infra/modules/gateway.bicep", "  name: name\n", "  name: 'gateway-${token}'\n"),
    ("infra/modules/apim.bicep", "name: 'apim-${token}'", "name: 'api-${token}'"),
    ("infra/main.bicep", ".azurewebsites.net'", ".azurewebsites.com'"),
    ("infra/main.bicep", "var gatewayName = 'func-${token}'", "var gatewayName = 'func'"),
    ("infra/main.bicep", "    pageOrigins: pageOrigins\n    corsOrigins: corsOrigins\n", ""),
    ("infra/main.bicep", "'https://apim-", "'https://api-"),
    ("infra/main.bicep", "[gatewayOrigin, apimOrigin]", "[apimOrigin]"),
    ("infra/modules/storage.bicep", "replace(corsOrigins, ' ', '')", "corsOrigins"),
    ("infra/modules/storage.bicep", "union(pageOrigins, otherOrigins)", "otherOrigins"),
    ("infra/modules/storage.bicep", "union(pageOrigins, otherOrigins)", "pageOrigins"),
    ("infra/modules/storage.bicep", "contains(otherOrigins, '*') ? ['*'] : ", ""),
    ("infra/modules/storage.bicep", "['GET', 'HEAD', 'PUT']", "['GET', 'HEAD']"),
    ("infra/modules/storage.bicep", "allowedMethods: ['GET',", "allowedMethods: ['BREW',"),
    ("infra/modules/storage.bicep", "allowedHeaders: ['*']", "allowedHeaders: []"),
    ("infra/modules/storage.bicep", "exposedHeaders: ['*']", "exposedHeaders: []"),
    ("infra/modules/apim.bicep", "format: 'xml'", "format: 'rawxml'"),
    ("infra/apim-policy.xml", ": context.Request.IpAddress", ": context.Request.Headers.Count"),
    ("infra/apim-policy.xml", "&quot;/replies&quot;, ", ""),
    # Nodes
    ("infra/modules/cluster.bicep", "nvidia.com/gpu=present:", "sku=gpu:"),
    ("infra/modules/cluster.bicep", "'loosely.dev/pool': 'gpu'", "'loosely.dev/pool': 'gpus'"),
    ("infra/modules/cluster.bicep", "contains(nodePools, each.name) ? null : ", ""),
    ("infra/modules/cluster.bicep", "    dataCollectionEndpointId: collection.id\n", ""),
    ("infra/modules/cluster.bicep", "CriticalAddonsOnly=true:NoSchedule", "x=y:NoSchedule"),
    (MODELS, "loosely.dev/pool: cpu", "loosely.dev/pool: gpu"),
    ("infra/k8s/base/cluster/device-plugin.yaml", "@sha256:", ":"),
    ("infra/modules/gateway.bicep", "scheduler, others)", "scheduler)"),
    ("infra/modules/worker-aca.bicep", "own[index], others)", "own[index])"),
    ("infra/modules/gateway.bicep", "union(updates, {", "union({}, {"),
    ("functions/host.json", '"CurrentOrOlder"', '"None"'),
    ("infra/modules/storage.bicep", "sku: storageSku", "sku: { name: 'Standard_LRS' }"),
    ("infra/k8s/base/cluster/device-plugin.yaml", "value: spot", "value: regular"),
    ("infra/k8s/components/spot/kustomization.yaml", "effect: NoSchedule", "effect: NoExecute"),
    ("infra/main.bicep", "param gpuMaxCount int = 8", "param gpuMaxCount int = 4"),
    ("infra/k8s/components/timeslice/time-slicing.yaml", "replicas: 2", "replicas: 4"),
    ("infra/k8s/components/timeslice/kustomization.yaml", 'value: "2"', 'value: "1"'),
    ("infra/k8s/components/timeslice/kustomization.yaml", 'value: "1"', 'value: "2"'),
    ("infra/k8s/components/mig/kustomization.yaml", ', add: ["SYS_ADMIN"]', ""),
    ("infra/modules/worker-aca.bicep", "memory: '56Gi'", "memory: '28Gi'"),
    # Timeouts, grace periods and drains
    (MODELS, "progressDeadlineSeconds: 1200", "progressDeadlineSeconds: 600"),
    (MODELS, "terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 30"),
    (MODELS, "value: '75'", "value: '95'"),
    (MODELS, "stabilizationWindowSeconds: 600", "stabilizationWindowSeconds: 60"),
    # Restrictions of pods and image
    (MODELS, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    ("worker/Dockerfile", "USER 10001:10001", "USER 0:0"),
    # The image
    ("worker/Dockerfile", 'ENTRYPOINT ["python", "-m", "worker"]', "ENTRYPOINT python -m worker"),
    ("worker/Dockerfile", "--index-url", "--extra-index-url"),
    ("worker/Dockerfile", "--require-hashes -r /build/requirements.lock", "-r requirements.txt"),
    ("worker/Dockerfile", "python:3.12.12-slim-bookworm@sha256:", "python:3.12.12-slim-bookworm:"),
    ("worker/Dockerfile", "public.ecr.aws/docker/library/python", "docker/library/python"),
    ("worker/requirements.txt", "azure-servicebus==7.15.0\n", ""),
    # Queries of alerts
    ("infra/modules/alerts.bicep", '": the oldest message is "', '": age "'),
    ("infra/modules/alerts.bicep", "/v1/models/[^/]+/jobs$", "/v1/models/[^/]+/tasks$"),
    # What Azure refuses or documents
    ("infra/modules/gateway.bicep", "minTlsVersion: '1.2' }", "ftpsState: 'Disabled' }"),
    ("infra/modules/gateway.bicep", "minTlsVersion: '1.2' }", "http20Enabled: true }"),
    ("infra/modules/gateway.bicep", "  AZURE_CLIENT_ID:", "  WEBSITE_RUN_FROM_PACKAGE:"),
    ("azure.yaml", '">= 1.34.2"', '">= 1.18.0"'),
    ("azure.yaml", "shell: sh", "shell: pwsh"),
    ("infra/modules/cluster.bicep", "localDnsMode = 'Disabled'", "localDnsMode = 'Preferred'"),
    ("infra/modules/cluster.bicep", "        localDNSProfile: { mode: localDnsMode }\n", ""),
    ("infra/main.bicep", "'Standard_D4as_v5'", "'Standard_D2as_v5'"),
    ("infra/main.bicep", "param systemNodeCount int = 2", "param systemNodeCount int = 1"),
    ("infra/prices.yaml", "system_nodes: 2", "system_nodes: 1"),
    # Capacity
    ("infra/catalogue.json", '"maxSizeInMegabytes": 5120', '"maxSizeInMegabytes": 1024'),
    ("infra/main.bicep", "    sku: durableSku\n", "    sku: 'Consumption'\n"),
    ("infra/modules/durable.bicep", "{ name: sku, capacity: capacity }", "{ name: sku }"),
    ("infra/modules/servicebus.bicep", "capacity: units }", "capacity: 1 }"),
    ("infra/main.bicep", "@allowed([2048, 4096])", "@allowed([512, 2048, 4096])"),
    ("infra/modules/gateway.bicep", "y: min(httpConcurrency", "y: max(httpConcurrency"),
    ("infra/modules/gateway.bicep", "t: maximumInstanceCount", "t: 40"),
    ("infra/main.parameters.json", "${DURABLE_SKU=", "${SKU="),
    # A preview, the linter and the formatter
    ("infra/main.bicep", "hostName: hostStorageName", "hostName: gateway.outputs.host"),
    (
        "infra/main.bicep",
        "    registryName: registryName\n",
        "    registryName: registry.outputs.name\n",
    ),
    (
        "infra/modules/storage.bicep",
        "weights, workerIdentityName)",
        "weights, workerPrincipalId)",
    ),
    ("infra/main.bicep", "dependsOn: [registry]", "dependsOn: [monitoring, registry]"),
    ("infra/modules/network.bicep", ", defaultOutboundAccess: false", ""),
    ("infra/modules/cluster.bicep", "param nodePools string[]", "param nodePools array"),
    ("infra/modules/registry.bicep", "param token Token", "param token string"),
    ("infra/modules/types.bicep", "@minLength(10)\n", ""),
    (
        "infra/modules/durable.bicep",
        BROKEN_CALL,
        "('Microsoft.Authorization/roleDefinitions', roles.durableTaskDataContributor)",
    ),
    # The device of the workers
    (MODELS, "        - name: WORKER_REQUIRE_DEVICE\n          value: cuda\n", ""),
    ("infra/modules/worker-aca.bicep", "? 'cuda' : 'any'", "? 'any' : 'any'"),
    # Traces and logs
    ("infra/modules/gateway.bicep", "  OTEL_TRACES_EXPORTER:", "  OTEL_TRACES:"),
    ("functions/requirements.in", "azure-monitor-opentelemetry-exporter", "azure-monitor"),
    (WORKERS + "worker.env", "STRING=Authorization=AAD", "STRING="),
    (
        WORKERS + "kustomization.yaml",
        "data.APPLICATIONINSIGHTS_CONNECTION_STRING",
        "data.REPLY_HOSTS",
    ),
    (
        "infra/modules/monitoring.bicep",
        "    { name: workerIdentityName, principalId: workerPrincipalId }\n",
        "",
    ),
    ("infra/modules/cluster.bicep", "useAADAuth: 'true'", "useAADAuth: 'false'"),
    ("infra/modules/cluster.bicep", "FilteringMode: 'Include'", "FilteringMode: 'Off'"),
    # Alerts
    ("infra/modules/alerts.bicep", 'matches regex @"/v1/models', 'has @"/v1/models'),
    ("infra/modules/alerts.bicep", "join kind=leftanti (exc", "join kind=inner (exc"),
    ("infra/modules/alerts.bicep", "by model'", "'"),
    ("infra/modules/alerts.bicep", "max(Count) - min(Count) + 1", "sum(Count)"),
    ("infra/modules/alerts.bicep", "/v1/health/ready'", "/health'"),
    ("infra/modules/alerts.bicep", "skipQueryValidation: true", "skipQueryValidation: false"),
    (
        "infra/modules/availability.json",
        '"ExpectedHttpStatusCode": 200',
        '"IgnoreHttpStatusCode": true',
    ),
    ("infra/modules/alerts.bicep", "name: 'key-vault'", "name: 'vault'"),
    ("infra/modules/alerts.bicep", "      overrideQueryTimeRange: each.?range\n", ""),
    ("infra/modules/alerts.bicep", "event Preempt", "event Evict"),
    ("infra/modules/alerts.bicep", ' and queue !endswith "-low"', ""),
    ("infra/modules/monitoring.bicep", "dashboards/worker.json", "workbook.json"),
    ("infra/modules/durable.bicep", "retentionPeriodInDays: retentionDays", "x: 1"),
    ("infra/modules/durable.bicep", "resource operatorRole", "resource otherRole"),
    ("infra/main.parameters.json", "${ALERT_EMAIL=}", "${ALERT_EMAIL}"),
    ("infra/k8s/base/cluster/scraping.yaml", "loosely|loosely-gpu", "loosely"),
    # Lifecycle rules
    ("infra/modules/storage.bicep", "{ prefix: 'uploads', days: firstDays + 1 }", ""),
    (
        "infra/modules/storage.bicep",
        "prefix: 'outcomes', days: payloadDays",
        "prefix: 'o', days: 7",
    ),
    ("infra/modules/storage.bicep", "'inputs', days: payloadDays", "'inputs', days: 7"),
    ("infra/modules/storage.bicep", "days: firstDays + 1", "days: 2"),
    ("infra/modules/storage.bicep", "+ firstDays + deadlineDays + 1", "+ 1"),
    ("infra/modules/storage.bicep", "days: retentionDays + 1", "days: 30"),
    ("infra/modules/storage.bicep", "+ batchDays + 1", "+ 1"),
    ("infra/modules/storage.bicep", "max(deadlineDays, batchDays)", "deadlineDays"),
    ("infra/catalogue.json", '"longestBatchSeconds": 604800', '"longestBatchSeconds": 86400'),
    ("infra/catalogue.json", '"PT604800S"', '"PT3600S"'),
    ("infra/catalogue.json", '"longestDeadlineSeconds": 3600', '"longestDeadlineSeconds": 60'),
    ("infra/modules/gateway.bicep", "  RETENTION_HOURS: string(retentionHours)\n", ""),
]
# Faults that only a comparison with the types of Azure and Kubernetes finds.
TYPE_FAULTS = [
    ("infra/modules/servicebus.bicep", "maxDeliveryCount:", "maxDeliverycount:"),
    ("infra/main.bicep", "gatewayMemoryMB int = 2048", "gatewayMemoryMB int = '2048'"),
    ("infra/modules/storage.bicep", "kind: 'StorageV2'", "kind: 'StorageV9'"),
    ("infra/modules/storage.bicep", "maxAgeInSeconds: 600", "maxAgeSeconds: 600"),
    ("infra/main.bicep", "storage.outputs.payloadName", "storage.outputs.payload"),
    ("infra/modules/cluster.bicep", "maxCount: gpuMaxCount", "maximum: gpuMaxCount"),
    (MODELS, "containerPort: 8081", "port: 8081"),
    (MODELS, "pollingInterval: 15", "pollInterval: 15"),
    ("azure.yaml", "host: function", "host: functions"),
    ("infra/main.bicep", "registryName: registryName\n", "registryNames: registryName\n"),
    ("infra/main.bicep", "    privateNetwork: privateNetwork\n", ""),
    ("infra/main.bicep", "privateNetwork: privateNetwork }", "privateNetwork: isPrivate }"),
    ("infra/modules/storage.bicep", "sku: storageSku", "sku: storageSkus"),
    ("infra/modules/gateway.bicep", "  kind: 'functionapp,linux'\n", "  kinds: 'functionapp'\n"),
    ("infra/modules/durable.bicep", "  location: location\n", ""),
    ("infra/modules/servicebus.bicep", "units }", "'many' }"),
    (MODELS, "queueName: classifier\n", "queuesName: classifier\n"),
    (MODELS, "maxReplicaCount: ", "maxReplicaCount: -"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "build")
            shutil.copytree(source, target, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return tmp_path


def plant(root: Path, fault: tuple[str, str, str]) -> None:
    name, found, instead = fault
    path = root / name
    text = path.read_text(encoding="utf-8")
    assert found in text, f"{name} has no {found!r} any more: change the planted fault"
    path.write_text(text.replace(found, instead), encoding="utf-8")


def name_of(fault: tuple[str, str, str]) -> str:
    return f"{fault[0].rpartition('/')[2]}: {fault[2].strip() or 'nothing'}"


def test_unchanged_copy_passes(copy: Path) -> None:
    files = DeploymentFiles(copy)
    for consistency_check in CHECKS:
        consistency_check(files)


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_each_fault_is_found(fault: tuple[str, str, str], copy: Path) -> None:
    plant(copy, fault)
    files = DeploymentFiles(copy)
    assert any(_fails(each, files) for each in CHECKS)


# (file, original text, faulty text), with a model that is kept warm
WARM_FAULTS = [
    (MODELS, "timezone: Europe/Berlin", "timezone: UTC"),
    (MODELS, "start: 0 8 * * 1-5", "start: 0 8 * * 0-4"),
    (MODELS, "end: 0 18 * * 1-5", "end: 0 8 * * 1-5"),
    (MODELS, "desiredReplicas: '3'", "desiredReplicas: '2'"),
    (MODELS, "- type: cron", "- type: azure-servicebus"),
    (MODELS, "minReplicaCount: 1", "minReplicaCount: 0"),
    ("infra/catalogue.json", '"minWorkers": 1', '"minWorkers": 0'),
    ("infra/catalogue.json", '"end": "0 2 * * 0"', '"end": "0 2 * * 6"'),
    (WORKERS + "kustomization.yaml", "[type=azure-servicebus]", "[type=cron]"),
]


@pytest.fixture
def warm_copy(copy: Path) -> Path:
    """Return a copy of the deployment's files in which some workers run even without jobs."""
    path = copy / "functions" / "contract" / "models.toml"
    lines = (
        'min_workers = 1\nwarm = ["Mon-Fri 08:00-18:00 Europe/Berlin", "Sat 22:00-02:00 UTC"]\n'
        "warm_workers = 3\n"
    )
    text = path.read_text("utf-8").replace("[classifier]\n", f"[classifier]\n{lines}")
    path.write_text(text, encoding="utf-8")
    for generated, content in make_files(Catalogue.load(path)).items():
        (copy / generated.relative_to(ROOT)).write_text(content, encoding="utf-8")
    return copy


def test_copy_with_a_warm_model_passes(warm_copy: Path) -> None:
    files = DeploymentFiles(warm_copy)
    for consistency_check in CHECKS:
        consistency_check(files)


@pytest.mark.thorough
@pytest.mark.parametrize("fault", WARM_FAULTS, ids=name_of)
def test_each_fault_with_a_warm_model_is_found(
    fault: tuple[str, str, str], warm_copy: Path
) -> None:
    plant(warm_copy, fault)
    files = DeploymentFiles(warm_copy)
    assert any(_fails(each, files) for each in CHECKS)


def test_minimum_above_the_maximum_is_refused(copy: Path) -> None:
    path = copy / "functions" / "contract" / "models.toml"
    text = path.read_text("utf-8").replace("[noop]\n", "[noop]\nmin_workers = 5\n")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"noop\.min_workers: .* at most 4 workers .* found 5"):
        make_files(Catalogue.load(path))


def _fails(consistency_check: Callable[[DeploymentFiles], None], files: DeploymentFiles) -> bool:
    try:
        consistency_check(files)
    except Exception:  # noqa: BLE001  some faults make a file unreadable
        return True
    return False


# `./dev check infra` makes this environment, with the packages that the checks need.
CHECKS_PYTHON = ROOT / ".venv-infra" / "bin" / "python"


@pytest.mark.thorough
@pytest.mark.skipif(not CHECKS_PYTHON.is_file(), reason="./dev check infra has not run")
@pytest.mark.parametrize("fault", TYPE_FAULTS, ids=name_of)
def test_type_checks_find_each_fault(fault: tuple[str, str, str], copy: Path) -> None:
    checks = {".bicep": "bicep", "azure.yaml": "azure_yaml", ".yaml": "manifests"}
    check = next(name for ending, name in checks.items() if fault[0].endswith(ending))
    assert run_check(copy, check) == f"{check}: passed\n"
    plant(copy, fault)
    assert run_check(copy, check).startswith(f"{check}: failed\n")


def run_check(root: Path, check: str) -> str:
    """Return what a check that compares with types and schemas prints."""
    command = [str(CHECKS_PYTHON), "-m", "tests.infra.checks", "--root", str(root), check]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stderr == ""
    return found.stdout
