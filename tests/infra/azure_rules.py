"""Check that the deployment follows rules of Azure that the Bicep compiler does not check.

Each check raises an AssertionError if a rule is violated. Comments name the source of each rule.
"""

import json
import re
from collections.abc import Iterator

import yaml

from tests.infra.deployment import DeploymentFiles, find_named, is_gpu, of_kind, pod

# ARM refuses these properties of siteConfig with the error 51021: azure-pipelines-tasks #21032,
# terraform-azurerm-avm-res-web-site #283 and #345.
REFUSED_BY_FLEX = (
    *("ftpsState", "use32BitWorkerProcess", "netFrameworkVersion", "alwaysOn"),
    *("functionsRuntimeScaleMonitoringEnabled", "linuxFxVersion", "windowsFxVersion"),
    *("preWarmedInstanceCount", "functionAppScaleLimit", "minimumElasticInstanceCount"),
)
# Flex Consumption deprecates these settings: azure-docs, functions-app-settings.
SETTINGS_REFUSED_BY_FLEX = (
    *("FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_PROCESS_COUNT"),
    *("WEBSITE_RUN_FROM_PACKAGE", "WEBSITE_CONTENTSHARE", "WEBSITE_NODE_DEFAULT_VERSION"),
    *("WEBSITE_CONTENTAZUREFILECONNECTIONSTRING", "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT"),
    *("SCM_DO_BUILD_DURING_DEPLOYMENT", "ENABLE_ORYX_BUILD"),
)
# The largest queue of the Standard tier: azure-docs, service-bus-quotas.
LARGEST_QUEUE_MEGABYTES = 5120
# From 1.21 on, azd passes values that a hook has set to the templates (azure-dev #6063).
# One of the releases of 2026-09, 1.34.2 at the latest, stops drawing over the output of hooks, such
# as the first API key (azure-dev #10033):
# https://devblogs.microsoft.com/azure-sdk/azure-developer-cli-azd-september-2026
LEAST_AZD = (1, 34, 2)
# AKS documents both for the system pool of a production cluster: azure-docs, aks/use-system-pools.
LEAST_SYSTEM_CORES = 4
LEAST_SYSTEM_NODES = 2
# The Bicep formatter breaks longer lines.
LONGEST_LINE = 120


def flex_consumption_gets_no_property_that_it_refuses(files: DeploymentFiles) -> None:
    gateway = files.module("gateway")
    for name in (*REFUSED_BY_FLEX, *SETTINGS_REFUSED_BY_FLEX):
        assert not re.search(rf"\b{name}\b\s*:", gateway), name
    # Newer stamps check more properties than older ones, so only the one of the quickstart is set.
    assert "siteConfig: { minTlsVersion: '1.2' }" in gateway


def azd_passes_values_of_hooks_on(files: DeploymentFiles) -> None:
    """Check that azure.yaml requires a version of azd that passes values from hooks to templates.

    Older versions do not pass a value to the Bicep templates if a hook has set it.
    """
    project = yaml.safe_load(files.text("azure.yaml"))
    [version] = re.findall(r"^>= (\d+\.\d+\.\d+)$", project["requiredVersions"]["azd"])
    assert tuple(map(int, version.split("."))) >= LEAST_AZD
    assert {hook["shell"] for hook in project["hooks"].values()} == {"sh"}


def exactly_the_workers_of_gpu_models_require_a_gpu(files: DeploymentFiles) -> None:
    """Check that WORKER_REQUIRE_DEVICE is `cuda` for GPU models, and not set for other models.

    Without this setting, a GPU model runs on the CPU if its worker finds no GPU.
    """
    for name, manifests in files.overlays.items():
        for deployment in of_kind(manifests, "Deployment"):
            environment = {
                each["name"]: each.get("value") for each in pod(deployment)["containers"][0]["env"]
            }
            expected = "cuda" if is_gpu(deployment) else None
            assert environment.get("WORKER_REQUIRE_DEVICE") == expected, name
    setting = "    WORKER_REQUIRE_DEVICE: model.device == 'gpu' ? 'cuda' : 'any'\n"
    assert setting in files.module("worker-aca")


def local_dns_is_off_in_every_node_pool(files: DeploymentFiles) -> None:
    """Check that LocalDNS is turned off in each node pool.

    The network policy does not permit connections to the resolvers of LocalDNS. From Kubernetes
    1.37 on, AKS turns LocalDNS on if no mode is set (source: azure-docs, aks/dns-concepts).
    """
    cluster = files.module("cluster")
    assert "var localDnsMode = 'Disabled'" in cluster
    assert (
        cluster.count("localDNSProfile: { mode: localDnsMode }") == cluster.count("vmSize: ") == 3
    )


def the_system_pool_has_the_documented_minimum(files: DeploymentFiles) -> None:
    """Check that the system node pool has as many cores and nodes as AKS recommends.

    Also check that infra/prices.yaml assumes the same numbers.
    """
    main = files.text("infra/main.bicep")
    [cores] = re.findall(r"param systemNodeSize string = 'Standard_D(\d+)as_v5'", main)
    [nodes] = re.findall(r"param systemNodeCount int = (\d+)", main)
    assert int(cores) >= LEAST_SYSTEM_CORES
    assert int(nodes) >= LEAST_SYSTEM_NODES
    prices = yaml.safe_load(files.text("infra/prices.yaml"))
    assert prices["usage"]["system_nodes"] == int(nodes)
    assert f"{cores} cores" in prices["prices"]["cluster_hour"]["system_node"]["source"]


def capacity_can_be_raised_by_parameters(files: DeploymentFiles) -> None:
    """Check that the deployment parameters in capacity.md change properties of the resources.

    Also check that the queues have the largest size of the Standard tier, and that an instance of
    the gateway has at least the memory that tests/infra/test_infra_gateway_memory.py requires.
    """
    main, gateway = files.text("infra/main.bicep"), files.module("gateway")
    queues = json.loads(files.text("infra/catalogue.json"))["queues"]
    assert {queue["maxSizeInMegabytes"] for queue in queues} == {LARGEST_QUEUE_MEGABYTES}
    assert "sku: sku == 'Dedicated' ? { name: sku, capacity: capacity } : { name: sku }" in (
        files.module("durable")
    )
    assert "@allowed([2048, 4096])\nparam gatewayMemoryMB int = 2048\n" in main
    premium = "isPremium ? { name: 'Premium', tier: 'Premium', capacity: units }"
    assert premium in files.module("servicebus")
    parameters = json.loads(files.text("infra/main.parameters.json"))["parameters"]
    for name, parameter, variable in (
        ("sku", "durableSku", "DURABLE_SKU=Consumption"),
        ("capacity", "durableCapacity", "DURABLE_CAPACITY=1"),
        ("sku", "serviceBusSku", "SERVICE_BUS_SKU=Standard"),
        ("units", "serviceBusUnits", "SERVICE_BUS_UNITS=1"),
        ("instanceMemoryMB", "gatewayMemoryMB", "GATEWAY_MEMORY_MB=2048"),
        ("maximumInstanceCount", "gatewayMaxInstances", "GATEWAY_MAX_INSTANCES=40"),
        ("httpConcurrency", "gatewayConcurrency", "GATEWAY_CONCURRENCY=50"),
    ):
        assert f"    {name}: {parameter}\n" in main
        assert parameters[parameter]["value"] == f"${{{variable}}}"
    assert "instanceMemoryMB: instanceMemoryMB\n" in gateway
    assert "maximumInstanceCount: maximumInstanceCount\n" in gateway
    assert "http: { perInstanceConcurrency: min(httpConcurrency, fittingConcurrency) }" in gateway


def a_preview_can_evaluate_every_name(files: DeploymentFiles) -> None:
    """Check that Azure's what-if preview can show each resource.

    The preview cannot show a resource whose name is computed from the output of another Bicep
    module (linter rule what-if-short-circuiting). The identities of the cluster itself are an
    exception, because they are known only after the cluster has been created.
    """
    main = re.sub(r"^\s*//.*$", "", files.text("infra/main.bicep"), flags=re.MULTILINE)
    modules = re.findall(
        r"^module \w+ 'modules/([\w-]+)\.bicep'.*?\{\n(.*?)^\}", main, re.DOTALL | re.MULTILINE
    )
    assert len(modules) > 10
    for name, body in modules:
        computed = re.findall(r"^ +(\w+): [^\n]*\.outputs\.", body, re.MULTILINE)
        for line in files.module(name).splitlines():
            found = re.match(r"\s*(?:name: |.*\bexisting = .*\{ name: |.*guid\()(.*)", line)
            used = set(re.findall(r"\w+", found[1])) if found else set()
            assert not used & set(computed), f"{name}: {line.strip()}"


def bicep_files_follow_the_linter_and_the_formatter(files: DeploymentFiles) -> None:
    """Check three rules of the Bicep compiler, linter and formatter.

    - Each parameter has a more precise type than `object` or `array`.
    - The type `Token` has a fixed length (BCP334).
    - Each line that the formatter can break is at most 120 characters long. The formatter breaks
      a line only at a bracket that is not in a string, and it never breaks a decorator.
    """
    for path in sorted((files.root / "infra").rglob("*.bicep")):
        text = path.read_text(encoding="utf-8")
        untyped = re.findall(r"^param (\w+) (?:object|array)\b", text, re.MULTILINE)
        assert not untyped, f"{path.name}: {untyped}"
        assert not re.search(r"^param token string\b", text, re.MULTILINE), path.name
        for line in text.splitlines():
            assert len(line) <= LONGEST_LINE or not _can_be_broken(line), f"{path.name}: {line}"
    assert "@minLength(10)\n@maxLength(10)\n@export()\ntype Token" in files.module("types")


def _can_be_broken(line: str) -> bool:
    """Return whether the Bicep formatter can break a line.

    This is the case if the line has brackets outside of its strings, and is not a decorator.
    """
    return bool(re.search(r"[\[{(]", re.sub(r"'(?:[^'\\]|\\.)*'", "", line))) and not (
        line.startswith("@")
    )


def modules_depend_explicitly_only_on_what_they_do_not_mention(files: DeploymentFiles) -> None:
    """Check that `dependsOn` lists no module that is a dependency anyway.

    A module depends on each module whose outputs it uses, and on the dependencies of that module.
    (Linter rule no-unnecessary-dependson.)
    """
    main = files.text("infra/main.bicep")
    bodies = dict(
        re.findall(r"^module (\w+) '[^']+' = [^{]*\{\n(.*?)^\}", main, re.DOTALL | re.MULTILINE)
    )
    uses = {name: set(re.findall(r"(\w+)!?\.outputs", body)) for name, body in bodies.items()}

    def all_of(name: str) -> set[str]:
        return uses[name].union(*map(all_of, uses[name]))

    for name, body in bodies.items():
        for listed in re.findall(r"dependsOn: \[(.*?)\]", body):
            assert not set(listed.split(", ")) & all_of(name), name


def updates_of_the_gateway_end_its_requests(files: DeploymentFiles) -> None:
    """Check that an update replaces instances in batches, and that orchestrations have a version.

    With this strategy, old and new instances run at the same time. So Durable Functions must keep
    orchestrations of a newer version away from older instances:
    https://learn.microsoft.com/azure/azure-functions/flex-consumption-site-updates
    """
    assert "param gatewayUpdates string = 'RollingUpdate'\n" in files.text("infra/main.bicep")
    gateway = files.module("gateway")
    assert "functionAppConfig: union(updates, {" in gateway
    assert "siteUpdateStrategy: { type: updateStrategy }" in gateway
    host = json.loads(files.text("functions/host.json"))
    durable = host["extensions"]["durableTask"]
    assert durable["defaultVersion"]
    assert durable["versionMatchStrategy"] == "CurrentOrOlder"
    assert durable["versionFailureStrategy"] == "Reject"
    # The first bundle that has versions: azure-docs, durable-functions-orchestration-versioning.
    least, _ = host["extensionBundle"]["version"].strip("[)").split(", ")
    assert tuple(map(int, least.split("."))) >= (4, 26, 0)


def settings_of_the_environment_are_deployed(files: DeploymentFiles) -> None:
    assert "scheduler, others)" in files.module("gateway")
    assert "items(union(common, own[index], others))" in files.module("worker-aca")
    main = files.text("infra/main.bicep")
    for name in ("gatewaySettings", "workerSettings"):
        assert f"    otherSettings: {name}\n" in main
    assert "    replyQueues: empty(replyQueues) ? [] : split(" in main
    assert "dailyQuotaGb: dailyQuotaGB }" in files.module("monitoring")
    for module in ("gateway", "worker-aca"):
        assert "split(otherSettings, ';')" in files.module(module)


def zone_redundancy_is_one_choice(files: DeploymentFiles) -> None:
    main = files.text("infra/main.bicep")
    assert main.count("    zoneRedundant: zoneRedundant\n") == 3
    storage = files.module("storage")
    assert storage.count("sku: storageSku") == storage.count("kind: 'StorageV2'") == 2
    assert "zoneRedundant ? max(2, alwaysReadyCount)" in files.module("gateway")
    assert files.module("cluster").count("zoneRedundant ? ['1', '2', '3'] : null") == 2


def subnets_state_their_outbound_access(files: DeploymentFiles) -> None:
    """Check that each subnet states whether it has outbound access.

    Azure changes the default with newer API versions: azure-docs, default-outbound-access.
    """
    network = files.module("network")
    subnets = network.count("addressPrefix:")
    assert subnets == 4
    assert network.count("defaultOutboundAccess: defaultOutboundAccess") == subnets - 1
    assert network.count("defaultOutboundAccess: false") == 1


def telemetry_is_sent_with_identities(files: DeploymentFiles) -> None:
    exporter = "azure_monitor_opentelemetry_exporter"
    gateway, apps = files.module("gateway"), files.module("worker-aca")
    for text in (gateway, apps):
        assert f"  OTEL_TRACES_EXPORTER: '{exporter}'\n" in text
        assert "Authorization=AAD'" in text
    for path in ("functions/requirements.in", "worker/requirements.txt"):
        assert "azure-monitor-opentelemetry-exporter" in files.text(path), path
    for manifests in files.overlays.values():
        [worker] = _worker_settings(manifests)
        assert worker["OTEL_TRACES_EXPORTER"] == exporter
        assert worker["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"] == "Authorization=AAD"
        assert worker["APPLICATIONINSIGHTS_CONNECTION_STRING"].startswith("InstrumentationKey=")
    monitoring = files.module("monitoring")
    for identity in ("gateway", "worker"):
        entry = f"{{ name: {identity}IdentityName, principalId: {identity}PrincipalId }}"
        assert entry in monitoring
    assert "name: guid(insights.id, identity.name, 'monitoringMetricsPublisher')" in monitoring


def _worker_settings(manifests: list[dict[str, object]]) -> Iterator[dict[str, str]]:
    for each in of_kind(manifests, "ConfigMap"):
        if each["metadata"]["name"].startswith("worker"):
            yield each["data"]


def logs_of_the_workers_are_collected(files: DeploymentFiles) -> None:
    cluster = files.module("cluster")
    assert "config: { logAnalyticsWorkspaceResourceID: workspaceId, useAADAuth: 'true' }" in cluster
    assert "namespaceFilteringMode: 'Include'" in cluster
    assert "namespaces: [split(workerServiceAccount, ':')[0]]" in cluster
    streams = "['Microsoft-ContainerLogV2', 'Microsoft-KubeEvents', 'Microsoft-KubePodInventory']"
    assert f"var insightsStreams = {streams}" in cluster
    assert "  name: 'ContainerInsightsExtension'\n  scope: cluster\n" in cluster


def alerts_cover_a_dead_gateway_and_name_the_model(files: DeploymentFiles) -> None:
    """Check that alerts fire if the gateway is dead, or if a single model is broken.

    Alerts on models must be computed for each model. An alert on the sum of all models would not
    fire if only one of many busy models is broken.
    """
    alerts = files.module("alerts")
    queries = dict(
        re.findall(
            r"    name: '([\w-]+)'\n(?:(?!    name:).)*?    (?:query|expression): '(.*?)'\n",
            alerts,
            re.DOTALL,
        )
    )
    rules = re.findall(r"    name: '([\w-]+)'\n", alerts)
    for name in ("slow-submits", "pods-pending", "keda-errors"):
        assert re.search(r"\bby model\b", queries[name]), name
    for name in ("lock-losses", "worker-faults", "model-set-aside"):
        assert "by (model)" in queries[name], name
    for name in ("no-ready-worker", "oldest-message", "given-up"):
        assert queries[name].endswith("by queue"), name
    low_priority_waits = 'queue !endswith "-low"'
    assert low_priority_waits in queries["oldest-message"]
    assert low_priority_waits not in queries["no-ready-worker"]
    assert queries["failed-jobs"].endswith('by reason = strcat(model, " ", code)')
    gone = 'join kind=leftanti (exceptions | where tostring(details) has "RequestCanceled")'
    assert gone in queries["gateway-errors"], "an alert of callers that disconnect"
    expected = {"gateway-silent", "gateway-errors", "scheduler-throttled", "service-bus-throttled"}
    expected |= {"log-limit", "payload-storage", "host-storage", "key-vault", "spot-evictions"}
    assert expected | {"queue-size", "gpu-errors"} <= set(rules)
    assert "countif(latest < ago(15m))" in queries["gateway-silent"], "no alert of a dead gateway"
    assert "      overrideQueryTimeRange: each.?range\n" in alerts, "an alert before the deployment"
    evicted = "Azure has scheduled the event Preempt"
    assert f'startswith "{evicted}"' in queries["spot-evictions"]
    assert evicted.replace("Preempt", "%s") in files.text("worker/processes/scheduled_events.py")
    # The number in an event counts from its first occurrence.
    assert "sum(Count)" not in alerts
    # A table of logs does not exist before the first log.
    assert "      scopes: [workspaceId]\n      skipQueryValidation: true\n" in alerts
    assert "url: '${gatewayUrl}/v1/health/ready'" in alerts
    test, alert = json.loads(files.text("infra/modules/availability.json"))["resources"]
    assert test["properties"]["ValidationRules"]["ExpectedHttpStatusCode"] == 200
    assert alert["properties"]["criteria"]["failedLocationCount"] < 5
    assert alert["properties"]["actions"] == [{"actionGroupId": "[parameters('actionGroupId')]"}]
    # Without a default, azd would ask for the address before check-tools.sh asks for it
    # (ensureParameters in azure-dev, pkg/infra/provisioning/bicep/bicep_provider.go).
    parameters = json.loads(files.text("infra/main.parameters.json"))["parameters"]
    assert parameters["alertEmail"] == {"value": "${ALERT_EMAIL=}"}
    assert "param alertEmail string = ''\n" in files.text("infra/main.bicep")


def operators_may_use_the_dashboard_of_the_scheduler(files: DeploymentFiles) -> None:
    [role] = re.findall(r"resource operatorRole (.*?\n)\}", files.module("durable"), re.DOTALL)
    assert "roles.durableTaskDataContributor" in role
    assert "principalId: deployerPrincipalId" in role


def the_dashboard_of_the_workers_is_deployed(files: DeploymentFiles) -> None:
    monitoring = files.module("monitoring")
    assert "definition: loadTextContent('../dashboards/worker.json')" in monitoring
    dashboard, definition = json.loads(files.text("infra/modules/dashboard.json"))["resources"]
    assert definition["type"].startswith(dashboard["type"])
    assert definition["properties"] == {"serializedData": "[parameters('definition')]"}
    assert json.loads(files.text("infra/dashboards/worker.json"))["panels"]


def metrics_of_gpus_are_scraped(files: DeploymentFiles) -> None:
    for name, manifests in files.overlays.items():
        exporter = find_named(manifests, "DaemonSet", "dcgm-exporter")
        namespace = exporter["metadata"]["namespace"]
        settings = find_named(manifests, "ConfigMap", "ama-metrics-settings-configmap")["data"]
        [pattern] = re.findall(r'regex = "(.*)"', settings["pod-annotation-based-scraping"])
        assert {namespace, "loosely"} == set(pattern.split("|")), name
        [port] = pod(exporter)["containers"][0]["ports"]
        annotations = exporter["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(port["containerPort"])


AZURE_RULES = (
    flex_consumption_gets_no_property_that_it_refuses,
    azd_passes_values_of_hooks_on,
    exactly_the_workers_of_gpu_models_require_a_gpu,
    local_dns_is_off_in_every_node_pool,
    the_system_pool_has_the_documented_minimum,
    capacity_can_be_raised_by_parameters,
    a_preview_can_evaluate_every_name,
    bicep_files_follow_the_linter_and_the_formatter,
    modules_depend_explicitly_only_on_what_they_do_not_mention,
    subnets_state_their_outbound_access,
    updates_of_the_gateway_end_its_requests,
    settings_of_the_environment_are_deployed,
    zone_redundancy_is_one_choice,
    telemetry_is_sent_with_identities,
    logs_of_the_workers_are_collected,
    alerts_cover_a_dead_gateway_and_name_the_model,
    operators_may_use_the_dashboard_of_the_scheduler,
    the_dashboard_of_the_workers_is_deployed,
    metrics_of_gpus_are_scraped,
)
