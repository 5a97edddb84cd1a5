"""What must hold between the deployment's files, and between them and the code.

Each function takes the files and fails by assertion. The tests run them on the repository, and on
copies with one fault each.
"""

import re
import tomllib
from collections.abc import Callable
from xml.etree import ElementTree

from contract.catalogue import Catalogue
from contract.queues import config
from infra.generate import LOW_PRIORITY_MESSAGES_PER_WORKER, MESSAGES_PER_WORKER
from tests.infra.deployment import Deployment, of_kind, pod
from tests.infra.nodes import (
    nodes_have_time_to_come,
    pods_land_on_their_nodes,
    pools_say_where_they_start,
    replicas_are_nodes_times_shares,
    what_is_priced_is_what_is_asked_for,
    workers_that_share_a_gpu_fit_its_machine,
)
from tests.infra.readings import seconds
from tests.infra.settings import (
    gateway_settings_are_set_and_read,
    image_environment,
    messages_of_a_dead_host_come_back_soon,
    the_platform_can_scale_the_gateway,
    worker_settings_are_set_and_read,
)


def queues_are_those_of_the_catalogue(files: Deployment) -> None:
    """Names, durations and limits, as the local Service Bus has them."""
    catalogue = Catalogue.load(files.root / "functions" / "contract" / "models.toml")
    [namespace] = config(catalogue)["UserConfig"]["Namespaces"]
    expected = {queue["Name"]: queue["Properties"] for queue in namespace["Queues"]}
    found = {queue["name"]: queue for queue in files.catalogue["queues"]}
    assert found.keys() == expected.keys()
    for name, properties in expected.items():
        assert found[name]["lockDuration"] == properties["LockDuration"], name
        assert found[name]["maxDeliveryCount"] == properties["MaxDeliveryCount"], name
        assert found[name]["defaultMessageTimeToLive"] == properties["DefaultMessageTimeToLive"]
        window = properties["DuplicateDetectionHistoryTimeWindow"]
        assert found[name]["duplicateDetectionHistoryTimeWindow"] == window
        assert (
            found[name]["deadLetteringOnMessageExpiration"]
            is properties["DeadLetteringOnMessageExpiration"]
        )
        assert seconds(found[name]["lockDuration"]) <= 300, "the most that Service Bus takes"
    template = files.module("servicebus")
    for key in (*found[next(iter(found))].keys() - {"name"},):
        assert f"{key}: each.{key}" in template, key
    assert "requiresDuplicateDetection: true" in template
    assert "disableLocalAuth: true" in template


def every_queue_brings_up_workers(files: Deployment) -> None:
    """KEDA looks at both queues of each model, in every overlay."""
    expected = {
        queue["name"]: queue for model in files.catalogue["models"] for queue in model["queues"]
    }
    assert expected.keys() == {queue["name"] for queue in files.catalogue["queues"]}
    for name, manifests in files.overlays.items():
        triggers = [
            trigger
            for scaled in of_kind(manifests, "ScaledObject")
            for trigger in scaled["spec"]["triggers"]
        ]
        found = {trigger["metadata"]["queueName"]: trigger["metadata"] for trigger in triggers}
        assert found.keys() == expected.keys(), name
        for queue, metadata in found.items():
            wanted = (
                LOW_PRIORITY_MESSAGES_PER_WORKER if queue.endswith("-low") else MESSAGES_PER_WORKER
            )
            assert metadata["messageCount"] == str(wanted), (name, queue)
            assert metadata["namespace"] == "sb-example", (name, queue)
        for trigger in triggers:
            assert trigger["authenticationRef"] == {"name": "servicebus"}
        [authentication] = of_kind(manifests, "TriggerAuthentication")
        assert authentication["metadata"]["name"] == "servicebus"
        assert authentication["spec"]["podIdentity"]["provider"] == "azure-workload"


def scaled_objects_fit_their_deployments(files: Deployment) -> None:
    """Each scales a Deployment that is there, from none."""
    for name, manifests in files.overlays.items():
        deployments = {each["metadata"]["name"] for each in of_kind(manifests, "Deployment")}
        targets = [
            each["spec"]["scaleTargetRef"]["name"] for each in of_kind(manifests, "ScaledObject")
        ]
        assert sorted(targets) == sorted(deployments), name
        for scaled in of_kind(manifests, "ScaledObject"):
            assert scaled["spec"]["minReplicaCount"] == 0, "no GPU while nothing waits"
            policy = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            longest = max(
                pod(each)["terminationGracePeriodSeconds"]
                for each in of_kind(manifests, "Deployment")
            )
            assert policy["scaleDown"]["stabilizationWindowSeconds"] >= longest
        for budget in of_kind(manifests, "PodDisruptionBudget"):
            assert budget["metadata"]["name"] in deployments


def ports_and_probes_fit(files: Deployment) -> None:
    """The port that the worker listens on is the one that is exposed, probed and scraped."""
    environment = image_environment(files)
    port = environment["HEALTH_PORT"]
    assert environment["HEALTH_HOST"] == "0.0.0.0", "probes come from outside the container"
    dockerfile = files.text("worker/Dockerfile")
    assert re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE) == [port]
    probes = re.findall(r"httpGet: \{ path: '(/\w+)', port: (\d+) \}", files.module("worker-aca"))
    assert [path for path, _ in probes] == ["/live", "/live", "/ready"]
    assert {number for _, number in probes} == {port}
    thresholds = re.findall(r"failureThreshold: (\d+)", files.module("worker-aca"))
    assert len(thresholds) == len(probes)
    assert max(map(int, thresholds)) <= 10, "the most that Container Apps take"
    assert "for model in models: if (!empty(image)) {" in files.module("worker-aca")
    for manifests in files.overlays.values():
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
        [ingress] = [each["spec"]["ingress"] for each in of_kind(manifests, "NetworkPolicy")]
        allowed = {str(each["port"]) for rule in ingress for each in rule["ports"]}
        for deployment in of_kind(manifests, "Deployment"):
            annotations = deployment["spec"]["template"]["metadata"]["annotations"]
            assert annotations["prometheus.io/port"] == port
            assert annotations["prometheus.io/path"] == "/metrics"
            for container in pod(deployment)["containers"]:
                own = {each["name"]: each["value"] for each in container["env"]}
                [configured] = [
                    maps[source["configMapRef"]["name"]] for source in container["envFrom"]
                ]
                [exposed] = container["ports"]
                assert str(exposed["containerPort"]) == own.get(
                    "HEALTH_PORT", configured["HEALTH_PORT"]
                )
                for probe, path in (
                    ("startupProbe", "/live"),
                    ("livenessProbe", "/live"),
                    ("readinessProbe", "/ready"),
                ):
                    assert container[probe]["httpGet"] == {"path": path, "port": exposed["name"]}
        assert port in allowed


def identities_are_federated_to_their_accounts(files: Deployment) -> None:
    """The pods' service account is the one whose tokens stand for the worker's identity."""
    cluster = files.module("cluster")
    [subject] = re.findall(r"param workerServiceAccount string = '([\w:-]+)'", cluster)
    namespace, account = subject.split(":")
    assert "subject: 'system:serviceaccount:${workerServiceAccount}'" in cluster
    assert "subject: 'system:serviceaccount:kube-system:keda-operator'" in cluster
    assert cluster.count("audiences: ['api://AzureADTokenExchange']") == 2
    for parent in ("workerIdentity", "kedaIdentity"):
        assert f"parent: {parent}\n" in cluster
    for manifests in files.overlays.values():
        [found] = of_kind(manifests, "ServiceAccount")
        assert (found["metadata"]["namespace"], found["metadata"]["name"]) == (namespace, account)
        assert "azure.workload.identity/client-id" in found["metadata"]["annotations"]
        for deployment in of_kind(manifests, "Deployment"):
            assert deployment["metadata"]["namespace"] == namespace
            assert pod(deployment)["serviceAccountName"] == account
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            assert labels["azure.workload.identity/use"] == "true"


def roles_go_with_their_identities(files: Deployment) -> None:
    """A role's name has its principal: Azure gives no assignment to a successor of another id."""
    roles = files.bicep.split("'Microsoft.Authorization/roleAssignments@")[1:]
    assert roles
    for role in roles:
        [name] = re.findall(r"name: guid\((.*)\)", role.split("properties:")[0])
        principal = role.split("principalId: ")[1].splitlines()[0]
        assert principal in name.split(", ")


def the_cluster_is_scraped(files: Deployment) -> None:
    """The rule names an endpoint, without which the agents have nowhere to send to."""
    cluster = files.module("cluster")
    assert "dataCollectionEndpointId: collection.id" in cluster
    assert "resource collection 'Microsoft.Insights/dataCollectionEndpoints@" in cluster


def workers_have_time_to_leave(files: Deployment) -> None:
    """The grace covers the longest ordinary job and a lock, the drain ends before it does."""
    catalogue = Catalogue.load(files.root / "functions" / "contract" / "models.toml")
    for manifests in files.overlays.values():
        for deployment in of_kind(manifests, "Deployment"):
            grace = pod(deployment)["terminationGracePeriodSeconds"]
            for container in pod(deployment)["containers"]:
                own = {each["name"]: each["value"] for each in container["env"]}
                model = catalogue.model(own["WORKER_MODELS"])
                longest = (
                    model.max_deadline_seconds if model.reports_progress else model.deadline_seconds
                )
                assert grace >= longest + model.lock_seconds
                assert longest <= int(own["WORKER_DRAIN_SECONDS"]) < grace
    for model in files.catalogue["models"]:
        longest = catalogue.model(model["name"]).deadline_seconds
        assert model["graceSeconds"] >= longest
    assert "min(model.graceSeconds, 600)" in files.module("worker-aca"), "the most that is taken"


def pods_are_confined(files: Deployment) -> None:
    """Restricted pods: no root, nothing to write to but volumes, no way up."""
    dockerfile = files.text("worker/Dockerfile")
    [user] = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    for manifests in files.overlays.values():
        for deployment in of_kind(manifests, "Deployment"):
            context = pod(deployment)["securityContext"]
            assert context["runAsNonRoot"] is True
            assert str(context["runAsUser"]) == user, "the image's own user"
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod(deployment)["automountServiceAccountToken"] is False
            volumes = {each["name"] for each in pod(deployment)["volumes"]}
            for container in pod(deployment)["containers"]:
                inner = container["securityContext"]
                assert inner["readOnlyRootFilesystem"] is True
                assert inner["allowPrivilegeEscalation"] is False
                assert inner["capabilities"] == {"drop": ["ALL"]}
                mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
                assert mounts.keys() <= volumes
                assert set(mounts.values()) == {"/tmp", "/var/cache/loosely", "/run/loosely"}
        [namespace] = of_kind(manifests, "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def no_key_is_anywhere(files: Deployment) -> None:
    """Identities only: what could sign in by a key is switched off."""
    storage = files.module("storage")
    assert "allowSharedKeyAccess: false" in storage
    assert "allowBlobPublicAccess: false" in storage
    assert "adminUserEnabled: false" in files.module("registry")
    assert "disableLocalAccounts: true" in files.module("cluster")
    assert "DisableLocalAuth: true" in files.module("monitoring")
    assert "enableRbacAuthorization: true" in files.module("vault")
    assert "listKeys" not in files.bicep
    assert "AccountKey" not in files.bicep


def the_front_takes_its_policy(files: Deployment) -> None:
    """The file is XML, with the quotes in its expressions escaped, and is sent as that."""
    assert ElementTree.fromstring(files.text("infra/apim-policy.xml")).tag == "policies"
    assert "format: 'xml'" in files.module("apim")


def what_is_left_is_deleted(files: Deployment) -> None:
    """A lifecycle rule for everything that the code writes into the payload container."""
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("contract", "gateway")
        for path in (files.root / "functions" / folder).rglob("*.py")
    )
    storage = files.module("storage")
    prefixes = set(re.findall(r"\{ prefix: '([\w-]+)', days: \d+ \}", storage))
    written = {"inputs", "results", "outcomes", "progress", "uploads", "claims", "dead-letters"}
    assert prefixes == written
    for prefix in written:
        assert re.search(rf"[\"']{prefix}/", code), f"nobody writes {prefix}/"


def queries_look_for_what_is_written(files: Deployment) -> None:
    """For lines and routes of the gateway, and for no metric: Service Bus exports no lengths."""
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("contract", "gateway")
        for path in (files.root / "functions" / folder).rglob("*.py")
    )
    for text in (files.module("alerts"), files.text("infra/workbook.json").replace('\\"', '"')):
        assert "AzureMetrics" not in text
        phrases = set(re.findall(r'(?:startswith|has|with|queue|\*) "([^"]+)"', text))
        assert {"queue ", ": oldest ", " ended as "} <= phrases
        assert not [phrase for phrase in phrases if phrase not in code]
        paths = re.findall(r'matches regex @"([^"]+)\$"', text)
        assert paths
        for path in paths:
            route = re.escape(path).replace(re.escape("[^/]+"), r"\{\w+\}")
            assert re.search(route, code), path


def the_image_has_what_it_needs(files: Deployment) -> None:
    """Its requirements are the worker's extras, its folders those that the worker imports."""
    project = tomllib.loads(files.text("pyproject.toml"))["project"]["optional-dependencies"]
    wanted = {*project["worker"], *project["worker-loop"], *project["telemetry"]}
    lines = {line for line in files.text("worker/requirements.txt").splitlines() if line[0] != "#"}
    assert lines == {name for name in wanted if not name.startswith("loosely[")}
    dockerfile = files.text("worker/Dockerfile")
    assert "COPY functions/contract /app/contract\nCOPY worker /app/worker\n" in dockerfile
    assert 'ENTRYPOINT ["python", "-m", "worker"]\n' in dockerfile, "the exec form, for signals"
    assert "STOPSIGNAL SIGTERM" in dockerfile
    assert "{TORCH_INDEX:+--extra-index-url " in dockerfile, "PyTorch's index has PyTorch alone"
    for base in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*", base), f"{base} is not pinned"
        assert "." in base.split("/")[0], f"{base} is on Docker Hub, which counts pulls"
    ignored = files.text(".dockerignore").splitlines()
    assert {"*", "!functions/contract", "!worker"} <= set(ignored)


TRUTHS: tuple[Callable[[Deployment], None], ...] = (
    queues_are_those_of_the_catalogue,
    every_queue_brings_up_workers,
    scaled_objects_fit_their_deployments,
    gateway_settings_are_set_and_read,
    worker_settings_are_set_and_read,
    the_platform_can_scale_the_gateway,
    messages_of_a_dead_host_come_back_soon,
    ports_and_probes_fit,
    identities_are_federated_to_their_accounts,
    roles_go_with_their_identities,
    pods_land_on_their_nodes,
    pools_say_where_they_start,
    nodes_have_time_to_come,
    the_cluster_is_scraped,
    replicas_are_nodes_times_shares,
    workers_that_share_a_gpu_fit_its_machine,
    what_is_priced_is_what_is_asked_for,
    workers_have_time_to_leave,
    pods_are_confined,
    no_key_is_anywhere,
    the_front_takes_its_policy,
    what_is_left_is_deleted,
    queries_look_for_what_is_written,
    the_image_has_what_it_needs,
)
