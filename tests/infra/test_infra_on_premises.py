"""Check the overlay for a cluster without Azure, as it is rendered."""

import base64
import json
import re
from typing import Any

import pytest

from contract.catalogue import Catalogue
from contract.settings import BrokerEndpoint, BrokerKind, S3Endpoint
from gateway.keys import make_key
from gateway.settings import GatewaySettings
from infra.generate import compute_grace_seconds, make_scaled_queues
from infra.manifests import RABBITMQ_API, count_max_workers
from tests.infra.deployment import ON_PREMISES, DeploymentFiles, Manifest, find_named, of_kind, pod
from worker.settings import WorkerSettings

FOLDER = f"infra/k8s/overlays/{ON_PREMISES}"
SECRETS = {
    "gateway-keys": {
        "REPLY_TOKEN_KEYS": base64.b64encode(bytes(32)).decode(),
        "API_KEYS": json.dumps([make_key("ci")[1]]),
    },
    "broker-user": {"username": "someone", "password": "secret"},
    "durable-sql": {
        "host": "sql.example",
        "port": "1433",
        "database": "loosely",
        "username": "sa",
        "password": "secret",
    },
    "object-store": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
    "host-storage": {"account": "blobs", "key": "secret"},
}
AZURE = r"azure|service.?bus|windows\.net|aks|entra|insights|ama-"
SECRET_ROW = re.compile(r"^\| `([\w-]+)` \| ((?:`[\w.]+`(?:, )?)+) \|", re.MULTILINE)
EXPECTED_PORTS = {
    "default-deny": ([], []),
    "names": ([], [53, 53]),
    "gateway": ([8080], [5672, 10000, 1433, 443]),
    "workers": ([8081], [8080, 5672, 443]),
    "rabbitmq": (
        [5672, 15672, 15692, 4369, 25672, 35672],
        [4369, 25672, 35672, 443, 6443],
    ),
    "host-storage": ([10000], []),
}


@pytest.fixture(scope="module")
def manifests(repository: DeploymentFiles) -> list[Manifest]:
    return repository.rendered(ON_PREMISES)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load()


def test_nothing_of_azure_is_left(manifests: list[Manifest]) -> None:
    text = json.dumps(manifests)
    # The names of the Functions host's own settings, and Microsoft's server for the host's blobs.
    for known in ("AzureWebJobsStorage", "AzureWebJobsSecretStorageType", "azure-storage/azurite"):
        text = text.replace(known, "")
    text = re.sub(r"AzureFunctionsJobHost__[\w.]+", "", text)
    found = re.findall(rf"[\w./-]*(?:{AZURE})[\w./-]*", text, re.IGNORECASE)
    assert found == []


def test_every_queue_of_the_catalogue_has_its_scaler(
    manifests: list[Manifest], catalogue: Catalogue
) -> None:
    for model in catalogue.values():
        scaled = find_named(manifests, "ScaledObject", f"worker-{model.resource_name}")["spec"]
        assert scaled["minReplicaCount"] == model.min_workers
        assert scaled["maxReplicaCount"] == count_max_workers(model)
        triggers = [each for each in scaled["triggers"] if each["type"] != "cron"]
        assert [each["type"] for each in triggers] == ["rabbitmq", "rabbitmq"]
        for trigger, queue in zip(triggers, make_scaled_queues(model), strict=True):
            metadata = trigger["metadata"]
            assert metadata["queueName"] == queue["name"]
            assert metadata["value"] == str(queue["messageCount"])
            assert metadata["activationValue"] == str(queue["activationMessageCount"])
            # Only this protocol counts messages that are not acknowledged.
            assert (metadata["protocol"], metadata["excludeUnacknowledged"]) == ("http", "false")
            assert (metadata["host"], metadata["vhostName"]) == (RABBITMQ_API, "loosely")
            assert trigger["authenticationRef"] == {"name": "rabbitmq"}


def test_gateway_scales_by_the_numbers_of_the_host(
    manifests: list[Manifest], repository: DeploymentFiles
) -> None:
    durable = json.loads(repository.text("functions/host.json"))["extensions"]["durableTask"]
    scaled = find_named(manifests, "ScaledObject", "gateway")["spec"]
    numbers = (
        f"{durable['maxConcurrentOrchestratorFunctions']}, "
        f"{durable['maxConcurrentActivityFunctions']}"
    )
    metadata = scaled["triggers"][0]["metadata"]
    assert metadata["query"] == f"SELECT dt.GetScaleRecommendation({numbers})"
    assert metadata["targetValue"] == "1"


def test_broker_keeps_messages_longer_than_any_job(
    manifests: list[Manifest], catalogue: Catalogue
) -> None:
    cluster = find_named(manifests, "RabbitmqCluster", "rabbitmq")["spec"]
    [timeout] = re.findall(
        r"^consumer_timeout = (\d+)$", cluster["rabbitmq"]["additionalConfig"], re.MULTILINE
    )
    longest = max(compute_grace_seconds(model) for model in catalogue.values())
    longest = max(longest, *(model.max_deadline_seconds for model in catalogue.values()))
    assert int(timeout) > 1000 * longest
    assert cluster["replicas"] == 3


def _secret_keys(value: Any) -> set[tuple[str, str]]:
    """Return the name and key of each reference to a key of a secret in a manifest."""
    found: set[tuple[str, str]] = set()
    if isinstance(value, list):
        for each in value:
            found |= _secret_keys(each)
    if isinstance(value, dict):
        if {"name", "key"} <= value.keys() and value.keys() <= {"name", "key", "parameter"}:
            found.add((value["name"], value["key"]))
        if (imported := value.get("importCredentialsSecret")) is not None:
            found |= {(imported["name"], "username"), (imported["name"], "password")}
        for each in value.values():
            found |= _secret_keys(each)
    return found


def test_every_secret_is_documented(manifests: list[Manifest], repository: DeploymentFiles) -> None:
    rows = SECRET_ROW.findall(repository.text(f"{FOLDER}/README.md"))
    documented = {name: set(re.findall(r"`([\w.]+)`", keys)) for name, keys in rows}
    assert not of_kind(manifests, "Secret")
    keys = _secret_keys(manifests)
    assert keys
    for name, key in sorted(keys):
        assert key in documented[name], (name, key)
    whole = set(re.findall(r'"secretRef": \{"name": "([\w-]+)"', json.dumps(manifests)))
    [ingress] = of_kind(manifests, "Ingress")
    whole |= {each["secretName"] for each in ingress["spec"]["tls"]}
    assert whole | {name for name, _ in keys} == documented.keys()


def test_only_the_expected_ports_are_open(manifests: list[Manifest]) -> None:
    policies = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "NetworkPolicy")
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    found = {}
    for name, spec in policies.items():
        for direction in ("ingress", "egress"):
            for rule in spec.get(direction, ()):
                assert rule["ports"], name
                assert rule["from" if direction == "ingress" else "to"], name
        found[name] = tuple(
            [port["port"] for rule in spec.get(direction, ()) for port in rule["ports"]]
            for direction in ("ingress", "egress")
        )
    assert found == EXPECTED_PORTS
    for deployment in of_kind(manifests, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        own = [
            spec
            for spec in policies.values()
            if spec["podSelector"].get("matchLabels", {"": ""}).items() <= labels.items()
        ]
        ports = {
            port["port"]
            for spec in own
            for rule in spec.get("ingress", ())
            for port in rule["ports"]
        }
        for container in pod(deployment)["containers"]:
            assert {each["containerPort"] for each in container["ports"]} == ports


def test_pods_are_restricted_and_probed(manifests: list[Manifest]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        spec = pod(deployment)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"livenessProbe", "readinessProbe"} <= container.keys()
            assert container["resources"]["limits"]["memory"]
    guarded = {each["metadata"]["name"] for each in of_kind(manifests, "PodDisruptionBudget")}
    workers = {each["metadata"]["name"] for each in of_kind(manifests, "Deployment")}
    assert guarded == (workers - {"host-storage"}) | {"rabbitmq"}


def _environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """Return the environment of the containers of a Deployment, as Kubernetes makes it."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
    [container] = pod(find_named(manifests, "Deployment", name))["containers"]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]
        else:
            found |= SECRETS[source["secretRef"]["name"]]
    for variable in container["env"]:
        if (value := variable.get("value")) is None:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = SECRETS[reference["name"]][reference["key"]]
        # Kubernetes only replaces variables that stand before.
        for used in re.findall(r"\$\((\w+)\)", value):
            value = value.replace(f"$({used})", found[used])
        found[variable["name"]] = value
    return found


def test_programs_accept_their_settings(manifests: list[Manifest], catalogue: Catalogue) -> None:
    gateway = GatewaySettings.from_env(_environment(manifests, "gateway"))
    url = "amqp://someone:secret@rabbitmq.loosely.svc:5672/loosely"
    store = S3Endpoint("loosely", "https://s3.example")
    assert gateway.broker == BrokerEndpoint(BrokerKind.RABBITMQ, url=url)
    assert gateway.payload_storage == store
    for model in catalogue.values():
        environment = _environment(manifests, f"worker-{model.resource_name}")
        assert environment["AWS_ACCESS_KEY_ID"] == "key"
        assert environment["AWS_REGION"]
        worker = WorkerSettings.from_env(environment)
        assert (worker.broker, worker.payload_storage) == (gateway.broker, store)
        assert worker.models == (model.name,)
        host = gateway.gateway_base_url.removeprefix("http://")
        assert any(address.endswith(host) for address in worker.reply_hosts)


def test_host_uses_the_database_and_its_own_blobs(manifests: list[Manifest]) -> None:
    environment = _environment(manifests, "gateway")
    prefix = "AzureFunctionsJobHost__extensions__durableTask__storageProvider__"
    assert environment[f"{prefix}type"] == "mssql"
    connection = environment[environment[f"{prefix}connectionStringName"]]
    assert connection == (
        "Server=sql.example,1433;Database=loosely;User ID=sa;Password=secret;Encrypt=True"
    )
    service = find_named(manifests, "Service", "host-storage")
    [port] = [each["port"] for each in service["spec"]["ports"]]
    address = f"BlobEndpoint=http://host-storage.loosely.svc:{port}/blobs;"
    assert address in environment["AzureWebJobsStorage"]


def test_image_of_the_gateway_has_the_user_and_the_port(
    manifests: list[Manifest], repository: DeploymentFiles
) -> None:
    dockerfile = repository.text(f"{FOLDER}/gateway.Dockerfile")
    spec = pod(find_named(manifests, "Deployment", "gateway"))
    context = spec["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    [port] = spec["containers"][0]["ports"]
    assert f"ASPNETCORE_URLS=http://+:{port['containerPort']}" in dockerfile
