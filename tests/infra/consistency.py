"""Check that the deployment's files are consistent with each other and with the code."""

import json
import re
import tomllib
from collections.abc import Callable
from datetime import timedelta
from xml.etree import ElementTree

from contract.catalogue import Catalogue
from contract.names import low_priority_queue
from contract.queues import (
    CLOUD_LOCK_SECONDS,
    LONGEST_BATCH_SECONDS,
    LOW_PRIORITY_MESSAGES_PER_WORKER,
    MESSAGES_PER_WORKER,
    cloud_lock_seconds,
    config,
)
from contract.warm import parse_period
from gateway.batches.step import SLICE_SECONDS
from gateway.dead_letters.bulk import ACTION_TIME
from gateway.housekeeping import STEP_SECONDS
from gateway.http.event_stream import BLOCKED_SECONDS, LONGEST_STREAM_SECONDS
from gateway.jobs.ends import ENDS_KEPT
from gateway.operations.sums import SUMS_KEPT
from gateway.settings import MAX_WAIT_SECONDS
from gateway.shares.usage import USAGE_KEPT
from gateway.storage.uploads import UPLOAD_LIFETIME
from gateway.submission.idempotency import LIFETIME_HOURS
from gateway.web_extension import MAX_REQUEST_SECONDS
from gateway.webhooks.activities import ATTEMPT_SECONDS
from infra.manifests import count_max_workers
from tests.infra.azure_rules import AZURE_RULES
from tests.infra.deployment import DeploymentFiles, find_named, of_kind, pod
from tests.infra.nodes import (
    new_node_pools_have_a_count,
    pods_tolerate_exactly_the_taints_of_their_nodes,
    prices_match_the_requested_resources,
    replicas_are_nodes_times_shares,
    rollouts_outlast_the_start_of_a_node,
    workers_that_share_a_gpu_fit_its_machine,
)
from tests.infra.readings import seconds
from tests.infra.settings import (
    gateway_settings_are_set_and_read,
    image_environment,
    messages_of_a_dead_host_are_visible_after_a_minute,
    the_platform_can_scale_the_gateway,
    worker_settings_are_set_and_read,
)

HOUSEKEEPING = "functions/gateway/housekeeping.py"
LONGEST_FUNCTION_SECONDS = 57 * 60


def queues_match_the_catalogue(files: DeploymentFiles) -> None:
    catalogue = Catalogue.load(files.root / "functions" / "contract" / "models.toml")
    [namespace] = config(catalogue)["UserConfig"]["Namespaces"]
    expected = {queue["Name"]: queue["Properties"] for queue in namespace["Queues"]}
    lock_seconds = {
        queue: cloud_lock_seconds(model)
        for model in catalogue.values()
        for queue in (model.queue, low_priority_queue(model.queue))
    }
    worker_seconds = f"WORKER_LOCK_SECONDS={CLOUD_LOCK_SECONDS}\n"
    assert worker_seconds in files.text("infra/k8s/base/workers/worker.env")
    container_apps = f"  WORKER_LOCK_SECONDS: '{CLOUD_LOCK_SECONDS}'\n"
    assert container_apps in files.module("worker-aca")
    found = {queue["name"]: queue for queue in files.catalogue["queues"]}
    assert found.keys() == expected.keys()
    for name, properties in expected.items():
        assert seconds(found[name]["lockDuration"]) == lock_seconds[name], name
        assert found[name]["maxDeliveryCount"] == properties["MaxDeliveryCount"], name
        assert found[name]["defaultMessageTimeToLive"] == properties["DefaultMessageTimeToLive"]
        window = properties["DuplicateDetectionHistoryTimeWindow"]
        assert found[name]["duplicateDetectionHistoryTimeWindow"] == window
        assert (
            found[name]["deadLetteringOnMessageExpiration"]
            is properties["DeadLetteringOnMessageExpiration"]
        )
        assert seconds(found[name]["lockDuration"]) <= 300, "longer than Service Bus permits"
    template = files.module("servicebus")
    for key in (*found[next(iter(found))].keys() - {"name"},):
        assert f"{key}: each.{key}" in template, key
    assert "requiresDuplicateDetection: true" in template
    assert "disableLocalAuth: true" in template


def each_queue_starts_workers(files: DeploymentFiles) -> None:
    expected = {
        rule["name"]: rule["metadata"]
        for model in files.catalogue["models"]
        for rule in model["scaleRules"]
        if rule["type"] == "azure-servicebus"
    }
    assert expected.keys() == {queue["name"] for queue in files.catalogue["queues"]}
    for name, manifests in files.overlays.items():
        triggers = [
            trigger
            for scaled in of_kind(manifests, "ScaledObject")
            for trigger in scaled["spec"]["triggers"]
            if trigger["type"] == "azure-servicebus"
        ]
        found = {trigger["metadata"]["queueName"]: trigger["metadata"] for trigger in triggers}
        assert found.keys() == expected.keys(), name
        for queue, metadata in found.items():
            wanted = (
                LOW_PRIORITY_MESSAGES_PER_WORKER if queue.endswith("-low") else MESSAGES_PER_WORKER
            )
            assert metadata["messageCount"] == str(wanted), (name, queue)
            assert metadata == {**expected[queue], "namespace": "sb-example"}, (name, queue)
        for trigger in triggers:
            assert trigger["authenticationRef"] == {"name": "servicebus"}
        [authentication] = of_kind(manifests, "TriggerAuthentication")
        assert authentication["metadata"]["name"] == "servicebus"
        assert authentication["spec"]["podIdentity"]["provider"] == "azure-workload"


def scaled_objects_match_their_deployments(files: DeploymentFiles) -> None:
    for name, manifests in files.overlays.items():
        deployments = {each["metadata"]["name"] for each in of_kind(manifests, "Deployment")}
        targets = [
            each["spec"]["scaleTargetRef"]["name"] for each in of_kind(manifests, "ScaledObject")
        ]
        assert sorted(targets) == sorted(deployments), name
        for scaled in of_kind(manifests, "ScaledObject"):
            policy = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            longest = max(
                pod(each)["terminationGracePeriodSeconds"]
                for each in of_kind(manifests, "Deployment")
            )
            assert policy["scaleDown"]["stabilizationWindowSeconds"] >= longest
        for budget in of_kind(manifests, "PodDisruptionBudget"):
            assert budget["metadata"]["name"] in deployments


def workers_are_kept_as_the_catalogue_says(files: DeploymentFiles) -> None:
    catalogue = Catalogue.load(files.root / "functions" / "contract" / "models.toml")
    for model in files.catalogue["models"]:
        entry = catalogue.model(model["name"])
        assert model["minWorkers"] == entry.min_workers, "workers do not scale to the minimum"
        assert model["warmWorkers"] == entry.warm_workers
        assert model["maxWorkers"] == count_max_workers(entry)
        periods = [parse_period(text) for text in entry.warm]
        expected = [
            (each.timezone, each.start_cron, each.end_cron, str(entry.warm_workers))
            for each in periods
        ]
        keys = ("timezone", "start", "end", "desiredReplicas")
        warm = [rule["metadata"] for rule in model["scaleRules"] if rule["type"] == "cron"]
        assert [tuple(period[key] for key in keys) for period in warm] == expected
        for name, manifests in files.overlays.items():
            for scaled in of_kind(manifests, "ScaledObject"):
                if scaled["metadata"]["name"] != f"worker-{entry.name}":
                    continue
                spec = scaled["spec"]
                assert spec["minReplicaCount"] == entry.min_workers, name
                assert entry.warm_workers <= spec["maxReplicaCount"], name
                crons = [each for each in spec["triggers"] if each["type"] == "cron"]
                assert [each["metadata"] for each in crons] == warm, name
                # KEDA needs no identity to read a clock.
                assert all(each.keys() == {"type", "metadata"} for each in crons), name
    apps = files.module("worker-aca")
    assert "minReplicas: max(model.device == 'gpu' ? minReplicas : 0, model.minWorkers)" in apps
    most = "model.device == 'gpu' ? gpuReplicas : model.maxWorkers"
    assert f"maxReplicas: max({most}, model.minWorkers, model.warmWorkers)\n" in apps
    assert "var gpuReplicas = max(minReplicas, maxReplicas)\n" in apps
    assert "for rule in model.scaleRules: {" in apps
    assert "identity: rule.type == 'cron' ? null : keda.id" in apps
    assert "union(rule.metadata, rule.type == 'cron' ? {} : { namespace:" in apps


def ports_and_probes_match(files: DeploymentFiles) -> None:
    environment = image_environment(files)
    port = environment["HEALTH_PORT"]
    assert environment["HEALTH_HOST"] == "0.0.0.0", "probes from outside cannot connect"
    dockerfile = files.text("worker/Dockerfile")
    assert re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE) == [port]
    probes = re.findall(r"httpGet: \{ path: '(/\w+)', port: (\d+) \}", files.module("worker-aca"))
    assert [path for path, _ in probes] == ["/live", "/live", "/ready"]
    assert {number for _, number in probes} == {port}
    thresholds = re.findall(r"failureThreshold: (\d+)", files.module("worker-aca"))
    assert len(thresholds) == len(probes)
    assert max(map(int, thresholds)) <= 10, "more than Container Apps permit"
    apps = _probes_of_container_apps(files)
    assert "for (model, index) in models: if (!empty(image)) {" in files.module("worker-aca")
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
                for probe in ("livenessProbe", "readinessProbe"):
                    here = {name: container[probe][name] for name in apps[probe]}
                    assert here == apps[probe], "Container Apps are probed differently"
        assert port in allowed


def _probes_of_container_apps(files: DeploymentFiles) -> dict[str, dict[str, int]]:
    """Return the numbers of each probe of the container apps, by the probe's name on AKS."""
    apps = files.module("worker-aca")
    found = re.findall(r"type: '(\w+)'\n +httpGet(.*?)\n +\}", apps, re.DOTALL)
    names = ("periodSeconds", "timeoutSeconds", "failureThreshold")
    return {
        f"{kind.lower()}Probe": {
            name: int(re.findall(rf"{name}: (\d+)", body)[0]) for name in names
        }
        for kind, body in found
    }


METADATA_SERVICE = "169.254.169.254/32"


def only_workers_that_need_it_reach_the_metadata_service(files: DeploymentFiles) -> None:
    for name, manifests in files.overlays.items():
        [policy] = of_kind(manifests, "NetworkPolicy")
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "worker"}
        permitted = False
        for rule in policy["spec"]["egress"]:
            assert rule["to"], f"{name}: a rule permits every address"
            for block in (each["ipBlock"] for each in rule["to"] if "ipBlock" in each):
                if block["cidr"] == METADATA_SERVICE:
                    permitted = True
                    assert [each["port"] for each in rule["ports"]] == [80]
                else:
                    assert METADATA_SERVICE in block["except"], f"{name}: {block}"
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
        [worker] = [data for name, data in maps.items() if name.startswith("worker")]
        assert permitted == ("WORKER_SCHEDULED_EVENTS" in worker), name


def identities_trust_their_service_accounts(files: DeploymentFiles) -> None:
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


def role_assignment_names_contain_their_principals(files: DeploymentFiles) -> None:
    """Check that the name of each role assignment is computed from its principal's name or id.

    Azure cannot change the principal of an existing role assignment. If the principal changes, the
    name must change too, so that Azure creates a new role assignment.
    """
    roles = files.bicep.split("'Microsoft.Authorization/roleAssignments@")[1:]
    assert roles
    for role in roles:
        [name] = re.findall(r"name: guid\((.*)\)", role.split("properties:")[0])
        properties = role.split("properties:")[1]
        principal = properties.split("principalId: ")[1].splitlines()[0]
        known = principal.replace("PrincipalId", "IdentityName").replace(".principalId", ".name")
        assert {principal, known} & set(name.split(", ")), name


def metrics_of_the_cluster_are_collected(files: DeploymentFiles) -> None:
    cluster = files.module("cluster")
    assert "dataCollectionEndpointId: collection.id" in cluster
    assert "resource collection 'Microsoft.Insights/dataCollectionEndpoints@" in cluster


def grace_periods_cover_the_drain(files: DeploymentFiles) -> None:
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
        longest = catalogue.model(model["model"]).deadline_seconds
        assert model["graceSeconds"] >= longest
    assert "min(model.graceSeconds, 600)" in files.module("worker-aca"), (
        "graceSeconds is not limited to 600, the maximum of Container Apps"
    )


def pods_are_restricted(files: DeploymentFiles) -> None:
    dockerfile = files.text("worker/Dockerfile")
    [user] = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    for manifests in files.overlays.values():
        for deployment in of_kind(manifests, "Deployment"):
            context = pod(deployment)["securityContext"]
            assert context["runAsNonRoot"] is True
            assert str(context["runAsUser"]) == user, "not the user of the image"
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
        namespace = find_named(manifests, "Namespace", "loosely")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def access_keys_are_turned_off(files: DeploymentFiles) -> None:
    storage = files.module("storage")
    assert "allowSharedKeyAccess: false" in storage
    assert "allowBlobPublicAccess: false" in storage
    assert "adminUserEnabled: false" in files.module("registry")
    assert "disableLocalAccounts: true" in files.module("cluster")
    assert "DisableLocalAuth: true" in files.module("monitoring")
    assert "enableRbacAuthorization: true" in files.module("vault")
    assert "listKeys" not in files.bicep
    assert "AccountKey" not in files.bicep


def pages_that_may_use_the_gateway_may_use_links_to_blobs(files: DeploymentFiles) -> None:
    main, storage = files.text("infra/main.bicep"), files.module("storage")
    parameters = json.loads(files.text("infra/main.parameters.json"))["parameters"]
    assert parameters["corsOrigins"] == {"value": "${CORS_ORIGINS=}"}
    gateway = files.module("gateway")
    assert "  CORS_ORIGINS: corsOrigins\n" in gateway
    assert main.count("    corsOrigins: corsOrigins\n") == 2, "not for gateway and storage"
    # The storage must know the gateway's host name before the gateway is created.
    assert "var gatewayName = 'func-${token}'" in main
    assert "    name: gatewayName\n" in main
    assert "param name string\n" in gateway
    assert "  name: name\n" in gateway.partition("'Microsoft.Web/sites@")[2]
    assert "var gatewayOrigin = 'https://${gatewayName}.azurewebsites.net'" in main
    assert "var apimOrigin = 'https://apim-${token}.azure-api.net'" in main
    assert "var pageOrigins = deployApim ? [gatewayOrigin, apimOrigin] : [gatewayOrigin]" in main
    assert "name: 'apim-${token}'" in files.module("apim")
    assert "    pageOrigins: pageOrigins\n" in main
    [rule] = re.findall(r"corsRules: \[\s*\{(.*?)\n\s*\}\s*\]", storage, re.DOTALL)
    found = dict(re.findall(r"^\s*(\w+): (.+)$", rule, re.MULTILINE))
    assert found.pop("allowedOrigins") == (
        "contains(otherOrigins, '*') ? ['*'] : union(pageOrigins, otherOrigins)"
    )
    assert "filter(split(replace(corsOrigins, ' ', ''), ','), each => !empty(each))" in storage
    # The same as the rule of `local-blobs --cors-origin`.
    assert found == {
        "allowedMethods": "['GET', 'HEAD', 'PUT']",
        "allowedHeaders": "['*']",
        "exposedHeaders": "['*']",
        "maxAgeInSeconds": "600",
    }
    # The rule belongs to the account with the payloads.
    _, _, payload = storage.partition("resource payload ")
    assert "corsRules" in payload


def the_api_management_policy_is_valid_xml(files: DeploymentFiles) -> None:
    policies = ElementTree.fromstring(files.text("infra/apim-policy.xml"))
    assert policies.tag == "policies"
    [limit] = policies.iter("rate-limit-by-key")
    key = limit.attrib["counter-key"]
    assert "Headers" not in key, "callers choose their headers, so they could choose their counter"
    assert {"context.Subscription.Id", "context.Request.IpAddress"} <= set(
        re.findall(r"[\w.]+", key)
    )
    assert "format: 'xml'" in files.module("apim")
    # Workers call these routes directly, with the reply tokens of their jobs.
    [closed] = policies.iter("when")
    routes = files.text("functions/gateway/http/routes/workers.py")
    ends = set(re.findall(r'"/v1/jobs/\{job_id\}(/\w+)"', routes)) | {"/replies"}
    assert set(re.findall(r'"(/\w+)"', closed.attrib["condition"])) == ends


def lifecycle_rules_cover_every_kind_of_blob(files: DeploymentFiles) -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("contract", "gateway")
        for path in (files.root / "functions" / folder).rglob("*.py")
    )
    written = {"inputs", "results", "outcomes", "progress", "deliveries", "uploads", "claims"}
    written |= {"dead-letters", "heartbeats", "children", "sums", "ends", "streams", "stops"}
    written |= {"files", "batches", "batches-of", "usage", "places", "shares"}
    assert lifecycle_days(files, 72, 3600).keys() == written
    for prefix in written:
        assert re.search(rf"[\"']{prefix}/", code), f"the code does not write {prefix}/"


def lifecycle_days(
    files: DeploymentFiles, retention_hours: int, deadline_seconds: int
) -> dict[str, int]:
    """Return the days of the storage's lifecycle rules by prefix, as Bicep computes them."""
    storage = files.module("storage")
    names = {
        "retentionHours": retention_hours,
        "longestDeadlineSeconds": deadline_seconds,
        "longestBatchSeconds": files.catalogue["longestBatchSeconds"],
    }
    for name, text in re.findall(r"^var (\w+Days) = (.+)$", storage, re.MULTILINE):
        expression = text.replace("loadJsonContent('../catalogue.json').", "").replace("/", "//")
        names[name] = eval(expression, {"max": max}, names)
    return {
        prefix: eval(days, {}, names)
        for prefix, days in re.findall(r"\{ prefix: '([\w-]+)', days: (.+) \}", storage)
    }


def lifecycle_rules_delete_after_the_housekeeping(files: DeploymentFiles) -> None:
    for hours, deadline in ((1, 1), (72, 3600), (10_000, 6 * 24 * 3600)):
        days = lifecycle_days(files, hours, deadline)
        kept = timedelta(hours=hours)
        longest = timedelta(seconds=deadline)
        batch = timedelta(seconds=LONGEST_BATCH_SECONDS)
        for prefix in ("inputs", "results", "outcomes", "progress", "deliveries", "streams"):
            assert timedelta(days=days[prefix]) > kept + longest + max(longest, batch), prefix
        for prefix in ("batches", "batches-of"):
            assert timedelta(days=days[prefix]) > kept + batch, prefix
        assert timedelta(days=days["dead-letters"]) > kept
        assert timedelta(days=days["files"]) > kept
        assert timedelta(days=days["uploads"]) > UPLOAD_LIFETIME + max(longest, batch)
        assert timedelta(days=days["claims"]) > timedelta(hours=LIFETIME_HOURS)
        assert timedelta(days=days["sums"]) > SUMS_KEPT
        assert timedelta(days=days["usage"]) > USAGE_KEPT
        assert timedelta(days=days["places"]) > max(longest, batch)
        assert timedelta(days=days["shares"]) > max(longest, batch)
        assert timedelta(days=days["ends"]) > ENDS_KEPT
    catalogue = Catalogue.load(files.root / "functions" / "contract" / "models.toml")
    deadlines = [model.max_deadline_seconds for model in catalogue.values()]
    assert files.catalogue["longestDeadlineSeconds"] == max(deadlines)
    assert files.catalogue["longestBatchSeconds"] == LONGEST_BATCH_SECONDS
    main = files.text("infra/main.bicep")
    assert main.count("    retentionHours: retentionHours\n") == 3, "not for all three"
    assert "retentionPolicies: [{ retentionPeriodInDays: retentionDays }]" in files.module(
        "durable"
    )
    assert "  RETENTION_HOURS: string(retentionHours)\n" in files.module("gateway")


# The status of gRPC with which the Durable Task Scheduler refuses calls. The host logs it.
# RequestCanceled is the error of its proxy after a caller has disconnected.
LINES_OF_THE_HOST = {"ResourceExhausted", "OverQuota", "RequestCanceled"}
# Another check compares this line with the worker's code.
LINE_OF_THE_WORKER = "Azure has scheduled the event Preempt"


def alert_queries_match_log_lines_and_routes(files: DeploymentFiles) -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("contract", "gateway")
        for path in (files.root / "functions" / folder).rglob("*.py")
    )
    for text in (files.module("alerts"), files.text("infra/workbook.json").replace('\\"', '"')):
        assert "AzureMetrics" not in text
        phrases = set(re.findall(r'(?:startswith|has|with|queue|\*) "([^"]+)"', text))
        assert {"queue ", ": the oldest message is ", " ended as "} <= phrases
        unknown = [
            phrase
            for phrase in phrases - LINES_OF_THE_HOST - {LINE_OF_THE_WORKER}
            if phrase not in code
        ]
        assert not unknown
        paths = re.findall(r'matches regex @"([^"]+)\$"', text)
        assert paths
        for path in paths:
            route = re.escape(path).replace(re.escape("[^/]+"), r"\{\w+\}")
            assert re.search(route, code), path


def everything_ends_long_before_the_function_timeout(files: DeploymentFiles) -> None:
    """Check that the timeout is an hour, and that no function runs for more than 57 minutes.

    After `functionTimeout`, the host restarts the language worker, with all other requests in it.
    """
    host = json.loads(files.text("functions/host.json"))
    assert host["functionTimeout"] == "01:00:00"
    steps = re.findall(r"^        (?:\"[\w/]+\"|[A-Z_]+): ", files.text(HOUSEKEEPING), re.MULTILINE)
    assert len(steps) == 23
    longest = {
        "a request": MAX_REQUEST_SECONDS,
        "a stream": LONGEST_STREAM_SECONDS + BLOCKED_SECONDS,
        "a caller's wait": MAX_WAIT_SECONDS,
        "an attempt of a webhook": ATTEMPT_SECONDS,
        "a step of a batch": SLICE_SECONDS,
        "the housekeeping": len(steps) * STEP_SECONDS,
        "a change of dead letters": ACTION_TIME.total_seconds(),
    }
    assert max(longest.values()) <= LONGEST_FUNCTION_SECONDS, longest


def the_image_has_what_the_worker_needs(files: DeploymentFiles) -> None:
    project = tomllib.loads(files.text("pyproject.toml"))["project"]["optional-dependencies"]
    wanted = {*project["worker"], *project["worker-loop"], *project["telemetry"]}
    lines = {line for line in files.text("worker/requirements.txt").splitlines() if line[0] != "#"}
    assert lines == {name for name in wanted if not name.startswith("loosely[")}
    dockerfile = files.text("worker/Dockerfile")
    assert "COPY functions/contract /app/contract\nCOPY worker /app/worker\n" in dockerfile
    assert 'ENTRYPOINT ["python", "-m", "worker"]\n' in dockerfile, (
        "not the exec form, so signals do not reach Python"
    )
    assert "STOPSIGNAL SIGTERM" in dockerfile
    assert '--index-url "$TORCH_INDEX" -r /build/torch.txt' in dockerfile
    assert dockerfile.count("--require-hashes -r /build/requirements") == 2
    assert "COPY worker/requirements.lock worker/requirements-torch.lock /build/\n" in dockerfile
    for base in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        pinned = r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}"
        assert re.fullmatch(pinned, base), f"{base} is not pinned"
        assert "." in base.split("/")[0], f"{base} is on Docker Hub, which limits pulls"
    ignored = files.text(".dockerignore").splitlines()
    assert {"*", "!functions/contract", "!worker"} <= set(ignored)


CHECKS: tuple[Callable[[DeploymentFiles], None], ...] = (
    queues_match_the_catalogue,
    each_queue_starts_workers,
    scaled_objects_match_their_deployments,
    workers_are_kept_as_the_catalogue_says,
    gateway_settings_are_set_and_read,
    worker_settings_are_set_and_read,
    the_platform_can_scale_the_gateway,
    messages_of_a_dead_host_are_visible_after_a_minute,
    ports_and_probes_match,
    only_workers_that_need_it_reach_the_metadata_service,
    identities_trust_their_service_accounts,
    role_assignment_names_contain_their_principals,
    pods_tolerate_exactly_the_taints_of_their_nodes,
    new_node_pools_have_a_count,
    rollouts_outlast_the_start_of_a_node,
    metrics_of_the_cluster_are_collected,
    replicas_are_nodes_times_shares,
    workers_that_share_a_gpu_fit_its_machine,
    prices_match_the_requested_resources,
    grace_periods_cover_the_drain,
    pods_are_restricted,
    access_keys_are_turned_off,
    pages_that_may_use_the_gateway_may_use_links_to_blobs,
    the_api_management_policy_is_valid_xml,
    lifecycle_rules_cover_every_kind_of_blob,
    lifecycle_rules_delete_after_the_housekeeping,
    alert_queries_match_log_lines_and_routes,
    everything_ends_long_before_the_function_timeout,
    the_image_has_what_the_worker_needs,
    *AZURE_RULES,
)
