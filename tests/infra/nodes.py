"""Check that node pools, GPUs, prices and the workers' pods are consistent in the deployment."""

import re

import yaml

from tests.infra.deployment import DeploymentFiles, find_named, is_gpu, of_kind, pod


def pods_tolerate_exactly_the_taints_of_their_nodes(files: DeploymentFiles) -> None:
    cluster = files.module("cluster")
    gpu = "nvidia.com/gpu=present:NoSchedule"
    spot = "kubernetes.azure.com/scalesetpriority=spot:NoSchedule"
    assert re.search(rf"var gpuTaints = \['{gpu}'\]", cluster)
    assert re.search(rf"var spotTaints = \['{spot}'\]", cluster)
    labels = re.findall(r"nodeLabels: \{ '([\w./]+)': '(\w+)' \}", cluster)
    assert [value for _, value in labels] == ["cpu", "gpu"]
    cpu_nodes, gpu_nodes = ({name: value} for name, value in labels)
    # Pods that tolerate this taint are those of AKS itself: azure-docs, aks/use-system-pools.
    assert "nodeTaints: ['CriticalAddonsOnly=true:NoSchedule']" in cluster
    for name, manifests in files.overlays.items():
        for deployment in of_kind(manifests, "Deployment"):
            taints = _tolerated(pod(deployment))
            if is_gpu(deployment):
                assert taints == ({gpu} if name == "ondemand" else {gpu, spot}), name
                assert pod(deployment)["nodeSelector"] == gpu_nodes
                asks = "nvidia.com/gpu" in pod(deployment)["containers"][0]["resources"]["limits"]
                assert asks is (name != "shared-gpu"), name
            else:
                assert not taints, "a pod without a GPU must not run on a GPU node"
                assert pod(deployment)["nodeSelector"] == cpu_nodes
        daemons = of_kind(manifests, "DaemonSet")
        assert len(daemons) == 2
        for daemon in daemons:
            assert _tolerated(pod(daemon)) == {gpu, spot}
            assert pod(daemon)["nodeSelector"] == gpu_nodes
            image = pod(daemon)["containers"][0]["image"]
            assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}$", image)


def _tolerated(spec: dict[str, object]) -> set[str]:
    tolerations = spec.get("tolerations", [])
    assert isinstance(tolerations, list)
    return {f"{each['key']}={each['value']}:{each['effect']}" for each in tolerations}


def rollouts_outlast_the_start_of_a_node(files: DeploymentFiles) -> None:
    [minutes] = re.findall(r"--timeout (\d+)m ", files.text("infra/scripts/deploy-worker.sh"))
    for manifests in files.overlays.values():
        for deployment in of_kind(manifests, "Deployment"):
            assert deployment["spec"]["progressDeadlineSeconds"] >= int(minutes) * 60


def new_node_pools_have_a_count(files: DeploymentFiles) -> None:
    """Check that the template sets the number of nodes only for node pools that do not exist yet.

    AKS refuses this number for an existing node pool, whose size the autoscaler changes.
    """
    cluster = files.module("cluster")
    counts = re.findall(
        r"^ +count: contains\(nodePools, \S+ \? null : (\S+)\n +minCount: (\S+)$",
        cluster,
        re.MULTILINE,
    )
    assert counts == [
        ("systemNodeCount", "systemNodeCount"),
        ("cpuMinCount", "cpuMinCount"),
        ("each.min", "each.min"),
    ]
    assert "    nodePools: split(nodePools, ',')\n" in files.text("infra/main.bicep")


def replicas_are_nodes_times_shares(files: DeploymentFiles) -> None:
    [nodes] = re.findall(r"param gpuMaxCount int = (\d+)", files.text("infra/main.bicep"))
    shares = {"ondemand": 1, "spot": 1, "shared-gpu": 1, "mig": 7}
    for name, manifests in files.overlays.items():
        share = shares.get(name)
        if name == "timeslice":
            text = find_named(manifests, "ConfigMap", "nvidia-time-slicing")["data"]["config.yaml"]
            share = int(re.findall(r"replicas: (\d+)", text)[0])
            [worker] = [
                each["data"]
                for each in of_kind(manifests, "ConfigMap")
                if each["metadata"]["name"].startswith("worker")
            ]
            assert worker["WORKER_CARD_SHARES"] == str(share), (
                "the workers do not limit themselves to their shares of memory"
            )
        assert share is not None, f"add the number of workers per GPU of {name}"
        for scaled in of_kind(manifests, "ScaledObject"):
            if is_gpu(scaled):
                assert scaled["spec"]["maxReplicaCount"] == int(nodes) * share, name


def prices_match_the_requested_resources(files: DeploymentFiles) -> None:
    usage = yaml.safe_load(files.text("infra/prices.yaml"))["usage"]
    cores = usage["cores_of_a_container_apps_replica"]["T4"]
    gib = usage["gib_of_a_container_apps_replica"]["T4"]
    asked = f"'gpu' ? {{ cpu: json('{cores}'), memory: '{gib}Gi' }}"
    assert asked in files.module("worker-aca")


def workers_that_share_a_gpu_fit_its_machine(files: DeploymentFiles) -> None:
    [cores] = re.findall(
        r"param gpuNodeSize string = 'Standard_NC(\d+)", files.text("infra/main.bicep")
    )
    # MIG needs an A100, whose smallest machine has 24 processors.
    machines = {name: (int(cores), 1) for name in files.overlays}
    machines |= {"timeslice": (int(cores), 2), "mig": (24, 7)}
    for name, manifests in files.overlays.items():
        have, share = machines[name]
        for deployment in filter(is_gpu, of_kind(manifests, "Deployment")):
            requests = [each["resources"]["requests"] for each in pod(deployment)["containers"]]
            assert share * sum(float(each["cpu"]) for each in requests) <= have - 1, name
        plugin = find_named(manifests, "DaemonSet", "nvidia-device-plugin")
        [container] = pod(plugin)["containers"]
        capabilities = container["securityContext"]["capabilities"]
        assert capabilities.get("add", []) == (["SYS_ADMIN"] if name == "mig" else []), name
