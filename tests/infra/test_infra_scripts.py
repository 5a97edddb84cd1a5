"""Test the scripts in infra/scripts with fake versions of programs such as az and kubectl."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.webhook import parse_secrets
from gateway.keys import KeyRing, parse_keys
from tests.hub_server import COMMIT, FakeHub, run_hub
from tests.infra import fake_cloud
from tests.infra.azure_outputs import USAGES, sku, usage
from tests.infra.deployment import DeploymentFiles, find_named, is_gpu, of_kind, pod
from tests.infra.script_runner import VALUES, ScriptRunner

# A script starts many programs, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(180)

T4 = "Standard NCASv3_T4 Family"
USAGE_LIMITS = {name: int(each["limit"]) for name, each in USAGES.items()}


def applied(scripts: ScriptRunner) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(scripts.state["applied"][-1]) if each]


class TestKeys:
    def test_missing_secret_is_created_once(self, scripts: ScriptRunner) -> None:
        key = scripts.check_output("keys.sh").strip()
        secrets = scripts.state["secrets"]
        assert secrets.keys() == {"reply-token-keys", "webhook-secrets", "api-keys"}
        assert len(parse_secrets(secrets["webhook-secrets"])) == 1
        caller = KeyRing(parse_keys(secrets["api-keys"])).caller(key.encode())
        assert caller is not None
        assert "admin" in caller.scopes
        assert len(scripts.calls("az", "functionapp", "restart")) == 1
        assert scripts.state["gateway"] == secrets, "the gateway has old secrets"

        assert scripts.check_output("keys.sh") == ""
        assert scripts.state["secrets"] == secrets
        assert len(scripts.calls("az", "functionapp", "restart")) == 1, "restarted without a change"

    def test_secrets_are_no_arguments(self, scripts: ScriptRunner) -> None:
        key = scripts.check_output("keys.sh").strip()
        scripts.check_output("keys.sh", "--rotate", "webhook-secrets")
        entry = json.loads(scripts.state["secrets"]["api-keys"])[0]["hash"]
        keys = [
            *scripts.state["secrets"]["reply-token-keys"].split(","),
            *scripts.state["secrets"]["webhook-secrets"].split(","),
        ]
        arguments = json.dumps(fake_cloud.calls(scripts.bin))
        assert not [secret for secret in (key, entry, *keys) if secret in arguments]
        files = {
            each[each.index("--file") + 1]
            for each in scripts.calls("az", "keyvault", "secret", "set")
        }
        assert files
        assert not [file for file in files if Path(file).exists()]

    def test_rotation_keeps_only_the_previous_key(self, scripts: ScriptRunner) -> None:
        name = "webhook-secrets"
        scripts.check_output("keys.sh")
        first = scripts.state["secrets"][name]
        scripts.check_output("keys.sh", "--rotate", name)
        new, old = scripts.state["secrets"][name].split(",")
        assert old == first != new
        scripts.check_output("keys.sh", "--rotate", name)
        assert scripts.state["secrets"][name].split(",")[1:] == [new]
        assert scripts.state["gateway"] == scripts.state["secrets"]
        assert len(scripts.calls("az", "functionapp", "restart")) == 3

    def test_apply_copies_a_changed_secret(self, scripts: ScriptRunner) -> None:
        scripts.check_output("keys.sh")
        scripts.update_state(secrets={"api-keys": "[]"})
        scripts.check_output("keys.sh", "--apply")
        assert scripts.state["gateway"]["api-keys"] == "[]"

    def test_calls_are_repeated_until_roles_apply(self, scripts: ScriptRunner) -> None:
        names = ("list", "set")
        scripts.update_state(failing={f"az keyvault secret {name}": 2 for name in names})
        scripts.check_output("keys.sh")
        assert len(scripts.state["secrets"]) == 3

    def test_unreadable_vault_is_not_changed(self, scripts: ScriptRunner) -> None:
        scripts.check_output("keys.sh")
        before = scripts.state["secrets"]
        scripts.update_state(failing={"az keyvault secret list": 99})
        assert scripts.run("keys.sh").returncode == 1
        scripts.update_state(failing={"az keyvault secret list": 0, "az keyvault secret show": 1})
        assert scripts.run("keys.sh", "--rotate", "webhook-secrets").returncode == 1
        assert scripts.state["secrets"] == before

    def test_pipeline_cannot_create_the_first_key(self, scripts: ScriptRunner) -> None:
        ended = scripts.run("keys.sh", CI="true")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "api-keys" not in scripts.state["secrets"]

    def test_rotate_needs_a_name_and_refuses_api_keys(self, scripts: ScriptRunner) -> None:
        assert scripts.run("keys.sh", "--rotate", "api-keys").returncode == 1
        assert scripts.run("keys.sh", "--rotate").returncode != 0
        assert "secrets" not in scripts.state or not scripts.state["secrets"]


class TestDeployWorker:
    @pytest.mark.thorough
    def test_same_code_builds_one_image(self, scripts: ScriptRunner) -> None:
        scripts.check_output("deploy-worker.sh")
        scripts.check_output("deploy-worker.sh")
        assert len(scripts.calls("az", "acr", "build")) == 1
        [(tag, digest)] = scripts.state["images"].items()
        assert re.fullmatch(r"worker:[0-9a-f]{12}", tag)
        assert scripts.state["applied"][0] == scripts.state["applied"][1]
        image = f"crtrial.azurecr.io/worker@{digest}"
        manifests = applied(scripts)
        for deployment in of_kind(manifests, "Deployment"):
            assert [each["image"] for each in pod(deployment)["containers"]] == [image]
        [account] = of_kind(manifests, "ServiceAccount")
        annotation = "azure.workload.identity/client-id"
        assert account["metadata"]["annotations"][annotation] == VALUES["WORKER_CLIENT_ID"]
        [authentication] = of_kind(manifests, "TriggerAuthentication")
        assert authentication["spec"]["podIdentity"]["identityId"] == VALUES["KEDA_CLIENT_ID"]
        for scaled in of_kind(manifests, "ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                assert trigger["metadata"]["namespace"] == "sb-trial"
        settings: dict[str, str] = {}
        for each in of_kind(manifests, "ConfigMap"):
            settings |= each["data"] if each["metadata"]["name"].startswith("worker") else {}
        assert settings["SERVICE_BUS__fullyQualifiedNamespace"] == VALUES["SERVICE_BUS_HOST"]
        assert settings["PAYLOAD_STORAGE__blobServiceUri"] == VALUES["PAYLOAD_ENDPOINT"]
        assert settings["REPLY_HOSTS"] == "func-trial.azurewebsites.net:443"
        connection = VALUES["APPLICATIONINSIGHTS_CONNECTION_STRING"]
        assert settings["APPLICATIONINSIGHTS_CONNECTION_STRING"] == connection
        assert "registry.example" not in scripts.state["applied"][-1]
        assert scripts.calls("kubelogin", "convert-kubeconfig")

    def test_uncommitted_changes_get_a_new_tag(self, scripts: ScriptRunner) -> None:
        stray = scripts.root / "worker" / "stray.py"
        stray.touch()
        try:
            scripts.check_output("deploy-worker.sh")
        finally:
            stray.unlink()
        [tag] = scripts.state["images"]
        assert re.fullmatch(r"worker:[0-9a-f]{12}-\d{14}", tag)

    @pytest.mark.thorough
    def test_commit_without_image_changes_keeps_its_tag(self, scripts: ScriptRunner) -> None:
        scripts.check_output("deploy-worker.sh")
        (scripts.root / "functions" / "other.py").touch()
        for command in (("add", "."), ("commit", "--quiet", "-m", "Other")):
            author = ("-c", "user.name=T", "-c", "user.email=t@example.org")
            subprocess.run(["git", *author, *command], cwd=scripts.root, check=True)
        scripts.check_output("deploy-worker.sh")
        assert len(scripts.state["images"]) == 1

    def test_settings_reach_the_workers(self, scripts: ScriptRunner) -> None:
        settings = "LOG_LEVEL=debug;WORKER_TURN_SECONDS=5;GUARD_ALLOW=10.0.0.0/8=x"
        scripts.update_state(
            values={"WORKER_SETTINGS": settings}, images={"worker:earlier": "sha256:0"}
        )
        scripts.check_output("deploy-worker.sh", "earlier")
        [data] = [
            each["data"]
            for each in of_kind(applied(scripts), "ConfigMap")
            if "LOG_LEVEL" in each["data"]
        ]
        assert (data["LOG_LEVEL"], data["WORKER_TURN_SECONDS"]) == ("debug", "5")
        assert data["GUARD_ALLOW"] == "10.0.0.0/8=x"
        assert data["HEALTH_PORT"] == "8081"
        assert not scripts.calls("az", "acr", "run"), "a rollback deletes images"

    @pytest.mark.thorough
    def test_old_images_are_deleted(self, scripts: ScriptRunner) -> None:
        scripts.check_output("deploy-worker.sh")
        [purge] = scripts.calls("az", "acr", "run")
        assert "acr purge --filter 'worker:.*' --ago 30d --keep 20 --untagged" in purge
        scripts.update_state(failing={"az acr run": 1})
        scripts.check_output("deploy-worker.sh")

    @pytest.mark.thorough
    def test_project_without_git_is_tagged_by_digest(
        self, scripts: ScriptRunner, tmp_path: Path
    ) -> None:
        shutil.copytree(
            scripts.root, tmp_path / "project", ignore=shutil.ignore_patterns(".git", "build")
        )
        project = replace(scripts, root=tmp_path / "project")
        model = project.root / "models" / "own.py"
        model.parent.mkdir()
        for text in ("first", "first", "second"):
            model.write_text(text, encoding="utf-8")
            project.check_output("deploy-worker.sh")
        model.rename(model.with_name("renamed.py"))
        project.check_output("deploy-worker.sh")
        assert len(scripts.state["images"]) == 3
        assert all(re.fullmatch(r"worker:[0-9a-f]{12}", tag) for tag in scripts.state["images"])
        assert len(scripts.calls("az", "acr", "build")) == 3

    def test_existing_tag_is_deployed_unknown_refused(self, scripts: ScriptRunner) -> None:
        scripts.update_state(images={"worker:earlier": "sha256:" + "e" * 64})
        scripts.check_output("deploy-worker.sh", "earlier")
        assert not scripts.calls("az", "acr", "build")
        assert f"crtrial.azurecr.io/worker@sha256:{'e' * 64}" in scripts.state["applied"][-1]

        assert "no worker:unknown" in scripts.check_error("deploy-worker.sh", "unknown")
        assert len(scripts.state["applied"]) == 1

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("values", "overlay"),
        [
            ({"USE_SPOT": "true"}, "spot"),
            ({"USE_SPOT": "false"}, "ondemand"),
            ({"GPU_SHARING": "mig"}, "mig"),
        ],
    )
    def test_overlay_takes_precedence(
        self, scripts: ScriptRunner, values: dict[str, str], overlay: str
    ) -> None:
        scripts.update_state(values=values, images={"worker:earlier": "sha256:0"})
        assert f"with overlay {overlay}\n" in scripts.run("deploy-worker.sh", "earlier").stderr
        errors = scripts.run("deploy-worker.sh", "earlier", OVERLAY="shared-gpu").stderr
        assert "with overlay shared-gpu\n" in errors

    def test_container_apps_are_updated(self, scripts: ScriptRunner) -> None:
        scripts.update_state(values={"WORKER_HOST": "aca"})
        scripts.check_output("deploy-worker.sh")
        [digest] = scripts.state["images"].values()
        image = f"crtrial.azurecr.io/worker@{digest}"
        assert scripts.state["apps"] == image
        assert scripts.state["values"]["WORKER_IMAGE"] == image, "the next provision changes it"
        assert not scripts.calls("kubectl")

    @pytest.mark.parametrize("host", ["aks", pytest.param("aca", marks=pytest.mark.thorough)])
    def test_models_without_gpu_get_a_cpu_image(self, scripts: ScriptRunner, host: str) -> None:
        index = "https://cpu.example"
        scripts.update_state(values={"WORKER_HOST": host, "CPU_TORCH_INDEX": index})
        for _ in range(2):
            scripts.check_output("deploy-worker.sh")
        plain, cpu = scripts.calls("az", "acr", "build")
        assert f"TORCH_INDEX={index}" in cpu
        assert "--build-arg" not in plain
        (tag, digest), (cpu_tag, cpu_digest) = scripts.state["images"].items()
        assert cpu_tag == f"{tag}-cpu"
        if host == "aca":
            values = scripts.state["values"]
            assert values["WORKER_IMAGE"].endswith(digest)
            assert values["WORKER_CPU_IMAGE"].endswith(cpu_digest)
            return
        for deployment in of_kind(applied(scripts), "Deployment"):
            expected = digest if is_gpu(deployment) else cpu_digest
            assert pod(deployment)["containers"][0]["image"].endswith(f"@{expected}")

    def test_gpu_image_serves_all_without_a_cpu_image(self, scripts: ScriptRunner) -> None:
        scripts.update_state(
            values={"CPU_TORCH_INDEX": "https://cpu.example"},
            images={"worker:earlier": "sha256:" + "e" * 64},
        )
        scripts.check_output("deploy-worker.sh", "earlier")
        assert not scripts.calls("az", "acr", "build")
        for deployment in of_kind(applied(scripts), "Deployment"):
            assert pod(deployment)["containers"][0]["image"].endswith("e" * 64)

    def test_calls_are_repeated_until_roles_apply(self, scripts: ScriptRunner) -> None:
        scripts.update_state(failing={"kubectl apply": 1})
        scripts.check_output("deploy-worker.sh")
        assert len(scripts.state["applied"]) == 1

    def test_missing_value_stops_the_deployment(self, scripts: ScriptRunner) -> None:
        state = scripts.state
        del state["values"]["KEDA_CLIENT_ID"]
        (scripts.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")
        assert "KEDA_CLIENT_ID" in scripts.check_error("deploy-worker.sh")
        assert not scripts.calls("kubectl", "apply")

    def test_failed_build_is_not_repeated(self, scripts: ScriptRunner) -> None:
        scripts.update_state(failing={"az acr build": 9})
        assert scripts.run("deploy-worker.sh").returncode != 0
        assert len(scripts.calls("az", "acr", "build")) == 1

    @pytest.mark.thorough
    def test_node_cache_stores_weights_on_the_node(self, scripts: ScriptRunner) -> None:
        scripts.update_state(values={"NODE_CACHE": "true"}, images={"worker:earlier": "sha256:0"})
        scripts.check_output("deploy-worker.sh", "earlier")
        manifests = applied(scripts)
        [volume] = of_kind(manifests, "PersistentVolume")
        [claim] = of_kind(manifests, "PersistentVolumeClaim")
        place = {name: claim["metadata"][name] for name in ("namespace", "name")}
        assert volume["spec"]["claimRef"] == place
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
        deployments = of_kind(manifests, "Deployment")
        assert deployments
        for deployment in deployments:
            assert deployment["metadata"]["namespace"] == place["namespace"]
            [cache] = [each for each in pod(deployment)["volumes"] if each["name"] == "cache"]
            claimed = {"claimName": place["name"]}
            assert cache == {"name": "cache", "persistentVolumeClaim": claimed}
        [settings] = [
            each
            for each in of_kind(manifests, "ConfigMap")
            if "WORKER_WEIGHTS_CACHE" in each["data"]
        ]
        assert settings["data"]["WORKER_WEIGHTS_CACHE_SIZE"] == "64GiB"
        # Pods start only after the DaemonSet has made the folder with their user as its owner.
        folder = volume["spec"]["hostPath"]
        assert folder["type"] == "Directory"
        daemons = find_named(manifests, "DaemonSet", "weights-cache")
        [parent] = pod(daemons)["volumes"]
        [container] = pod(daemons)["containers"]
        [mount] = container["volumeMounts"]
        [command] = container["args"]
        inside = folder["path"].replace(parent["hostPath"]["path"], mount["mountPath"])
        user = pod(deployments[0])["securityContext"]["runAsUser"]
        assert f"chown {user}:{user} {inside}\n" in command
        assert f"find {inside} -type f -delete\n" in command
        added = ["CHOWN", "DAC_OVERRIDE"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": added}
        dockerfile = (scripts.root / "worker" / "Dockerfile").read_text("utf-8")
        assert f"FROM {container['image']} AS build" in dockerfile

    def test_cache_is_smaller_than_its_volume(self, repository: DeploymentFiles) -> None:
        for manifests in repository.overlays.values():
            for deployment in of_kind(manifests, "Deployment"):
                [cache] = [each for each in pod(deployment)["volumes"] if each["name"] == "cache"]
                assert cache["emptyDir"]["sizeLimit"] == "16Gi"
        assert "WORKER_WEIGHTS_CACHE_SIZE=15GiB" in repository.text(
            "infra/k8s/base/workers/worker.env"
        )


class TestUploadWeights:
    def test_file_is_uploaded_once_and_settings_printed(
        self, scripts: ScriptRunner, tmp_path: Path
    ) -> None:
        weights = tmp_path / "net.safetensors"
        weights.write_bytes(b"one")
        printed = scripts.check_output("upload-weights.sh", str(weights))
        assert printed == scripts.check_output("upload-weights.sh", str(weights))
        assert len(scripts.calls("az", "storage", "blob", "upload")) == 1
        assert 'weights = "blob:weights/net.safetensors"' in printed
        assert scripts.state["blobs"]["net.safetensors"] in printed

    def test_other_weights_of_the_same_name_are_refused(
        self, scripts: ScriptRunner, tmp_path: Path
    ) -> None:
        weights = tmp_path / "net.safetensors"
        weights.write_bytes(b"one")
        scripts.check_output("upload-weights.sh", str(weights))
        weights.write_bytes(b"two")
        assert "other bytes" in scripts.check_error("upload-weights.sh", str(weights))
        assert 'blob:weights/net-2"' in scripts.check_output(
            "upload-weights.sh", str(weights), "net-2"
        )

    def test_missing_file_is_refused(self, scripts: ScriptRunner) -> None:
        assert scripts.run("upload-weights.sh", "nowhere").returncode == 1
        assert not scripts.calls("az")


class TestFetchWeights:
    @pytest.fixture
    def hub(self) -> Iterator[FakeHub]:
        with run_hub() as running:
            yield running

    def write_list(self, folder: Path, hub: FakeHub, data: bytes = b"from the hub") -> str:
        hub.add("acme/net", "a b.bin", b"from the hub")
        digest = hashlib.sha256(data).hexdigest()
        path = folder / "weights.txt"
        path.write_text(f"# A comment.\n{digest} acme/net/resolve/{COMMIT}/a%20b.bin\n")
        return str(path)

    def test_weights_are_copied_once_by_digest(
        self, scripts: ScriptRunner, tmp_path: Path, hub: FakeHub
    ) -> None:
        path = self.write_list(tmp_path, hub)
        for _ in range(2):
            scripts.check_output("fetch-weights.sh", path, HF_ENDPOINT=hub.endpoint)
        digest = hashlib.sha256(b"from the hub").hexdigest()
        assert scripts.state["blobs"] == {f"sha256/{digest}": digest}
        assert len(hub.storage_requests) == 1

    def test_token_is_not_exposed(
        self, scripts: ScriptRunner, tmp_path: Path, hub: FakeHub
    ) -> None:
        hub.token = "hf_ThisMustStaySecret"
        path = self.write_list(tmp_path, hub)
        ended = scripts.run(
            "fetch-weights.sh", path, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_ThisMustStaySecret"
        )
        assert ended.returncode == 0, ended.stderr
        assert "Secret" not in f"{ended.stdout}{ended.stderr}{scripts.calls()}"
        [request] = hub.storage_requests
        assert "authorization" not in {name.lower() for name in request.headers}
        script = (scripts.root / "infra" / "scripts" / "fetch-weights.sh").read_text("utf-8")
        assert "print_options | curl --config -" in script

    def test_wrong_digest_is_not_uploaded(
        self, scripts: ScriptRunner, tmp_path: Path, hub: FakeHub
    ) -> None:
        path = self.write_list(tmp_path, hub, b"other")
        assert "as in the catalogue: nothing was uploaded" in scripts.check_error(
            "fetch-weights.sh", path, HF_ENDPOINT=hub.endpoint
        )
        assert not scripts.state.get("blobs")

    def test_error_names_the_unreachable_weights(
        self, scripts: ScriptRunner, tmp_path: Path, hub: FakeHub
    ) -> None:
        path = self.write_list(tmp_path, hub)
        hub.files.clear()
        assert f"acme/net/resolve/{COMMIT}/a%20b.bin cannot be downloaded" in scripts.check_error(
            "fetch-weights.sh", path, HF_ENDPOINT=hub.endpoint
        )
        for environment in (
            {"HF_ENDPOINT": "http://hub.example"},
            {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": 'hf_"\n'},
        ):
            assert scripts.run("fetch-weights.sh", path, **environment).returncode == 1
        assert len(hub.hub_requests) == 1

    def test_deployment_copies_weights_first(self, scripts: ScriptRunner, hub: FakeHub) -> None:
        path = scripts.root / "infra" / "weights.txt"
        assert path.read_text("utf-8").count("\n") == 1, "the models that ship need no hub"
        before = path.read_text("utf-8")
        try:
            self.write_list(path.parent, hub)
            scripts.check_output("deploy-worker.sh", HF_ENDPOINT=hub.endpoint)
        finally:
            path.write_text(before, encoding="utf-8")
        names = [" ".join(each[:4]) for each in scripts.calls()]
        assert names.index("az storage blob upload") < names.index("az aks get-credentials --name")


class TestTeardown:
    def test_wrong_confirmation_deletes_nothing(self, scripts: ScriptRunner) -> None:
        for typed in ("yes\n", "", "\n"):
            assert scripts.run("teardown.sh", typed=typed).returncode == 1
        assert not scripts.calls("azd", "down")
        assert scripts.state["group"]

    def test_second_run_finds_nothing(self, scripts: ScriptRunner) -> None:
        assert scripts.run("teardown.sh", typed="trial\n").returncode == 0
        assert not scripts.state["group"]
        ended = scripts.run("teardown.sh")
        assert ended.returncode == 0
        assert "nothing to do" in ended.stderr
        assert len(scripts.calls("azd", "down")) == 1

    def test_failed_look_up_deletes_nothing(self, scripts: ScriptRunner) -> None:
        scripts.update_state(failing={"az group exists": 1})
        assert scripts.run("teardown.sh", typed="trial\n").returncode != 0
        assert not scripts.calls("azd", "down")


def test_default_choices_pass_the_preflight_check(scripts: ScriptRunner) -> None:
    scripts.check_output("check-tools.sh")
    assert scripts.state["values"]["NODE_POOLS"] == "none"


@pytest.mark.thorough
class TestCheckTools:
    @pytest.mark.thorough
    def test_budget_gets_its_start_once(self, scripts: ScriptRunner) -> None:
        scripts.check_output("check-tools.sh")
        assert "BUDGET_START" not in scripts.state["values"], (
            "the month is set although there is no budget"
        )
        scripts.update_state(values={"MONTHLY_BUDGET": "300"})
        scripts.check_output("check-tools.sh")
        start = scripts.state["values"]["BUDGET_START"]
        assert re.fullmatch(r"\d{4}-\d{2}-01", start)
        scripts.update_state(values={"BUDGET_START": "2020-01-01"})
        scripts.check_output("check-tools.sh")
        assert scripts.state["values"]["BUDGET_START"] == "2020-01-01"
        scripts.update_state(group=False)
        scripts.check_output("check-tools.sh")
        assert scripts.state["values"]["BUDGET_START"] == start, "the new group has an old month"

    def test_error_names_a_missing_program(self, scripts: ScriptRunner) -> None:
        (scripts.bin / "kubelogin").unlink()
        assert "kubelogin is not installed" in scripts.check_error("check-tools.sh")
        scripts.update_state(values={"WORKER_HOST": "aca"})
        scripts.check_output("check-tools.sh")

    def test_python_older_than_3_11_is_refused(self, scripts: ScriptRunner) -> None:
        old = scripts.bin / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        assert "older than 3.11" in scripts.run("check-tools.sh").stderr

    @pytest.mark.thorough
    def test_existing_node_pools_are_stored(self, scripts: ScriptRunner) -> None:
        scripts.update_state(pools={"system": 2, "gpu": 0})
        scripts.check_output("check-tools.sh")
        assert scripts.state["values"]["NODE_POOLS"] == "system,gpu"
        scripts.update_state(failing={"az aks list": 1})
        assert scripts.run("check-tools.sh").returncode == 1, (
            "the script succeeds although the list of pools is unknown"
        )
        assert scripts.state["values"]["NODE_POOLS"] == "system,gpu"
        scripts.update_state(group=False)
        scripts.check_output("check-tools.sh")
        assert scripts.state["values"]["NODE_POOLS"] == "none", "pools of a deleted group"

    def test_different_subscriptions_fail(self, scripts: ScriptRunner) -> None:
        scripts.update_state(values={"AZURE_SUBSCRIPTION_ID": "another"})
        assert "az account set --subscription another" in scripts.check_error("check-tools.sh")
        scripts.update_state(subscription="another")
        scripts.check_output("check-tools.sh")

    @pytest.mark.parametrize(
        ("choices", "registered"),
        [
            ({}, ["Microsoft.Compute", "Microsoft.Network"]),
            ({"WORKER_HOST": "aca"}, []),
            ({"WORKER_HOST": "aca", "PRIVATE_NETWORK": "true"}, ["Microsoft.App"]),
        ],
    )
    def test_providers_outside_templates_are_registered(
        self, scripts: ScriptRunner, choices: dict[str, str], registered: list[str]
    ) -> None:
        scripts.update_state(values=choices)
        scripts.check_output("check-tools.sh")
        calls = scripts.calls("az", "provider", "register")
        assert [call[call.index("--namespace") + 1] for call in calls] == registered

    @pytest.mark.parametrize(
        ("choices", "missing", "reason"),
        [
            ({}, {"flex_regions": [{"name": "eastus"}]}, "does not offer Flex Consumption"),
            ({}, {"scheduler_regions": ["East US"]}, "does not offer the Durable Task Scheduler"),
            ({}, {"dashboard_regions": ["East US"]}, "azd env set DEPLOY_DASHBOARD false"),
            ({}, {"skus": {"Standard_NC4as_T4_v3": None}}, "does not offer Standard_NC4as_T4_v3"),
            (
                {},
                {"skus": {"Standard_D4as_v5": sku("Standard_D4as_v5", "", 4, "Location")}},
                "does not offer Standard_D4as_v5 to this subscription",
            ),
            # What is left counts, and an upgrade starts one more node of the system pool.
            (
                {},
                {"usages": {"standardDASv5Family": usage("standardDASv5Family", 20, 5)}},
                "15 cores of the quota standardDASv5Family in swedencentral are left, but 2 of",
            ),
            ({}, {"usages": {"cores": usage("cores", 19)}}, "19 cores of the quota cores in"),
            (
                {},
                {"usages": {T4: usage(T4, 8, 5)}},
                "3 cores of the quota Standard NCASv3_T4 Family in swedencentral are left",
            ),
            (
                {"GPU_NODE_SIZE": "Standard_ND96asr_v4"},
                {"usages": {"cores": usage("cores", 200)}},
                "0 cores of the quota Standard NDASv4_A100 Family in",
            ),
            (
                {"GPU_NODE_SIZE": "Standard_NC24ads_A100_v4", "USE_SPOT": "false"},
                {"usages": {"cores": usage("cores", 100)}},
                "0 cores of the quota StandardNCADSA100v4Family",
            ),
            (
                {},
                {"usages": {"lowPriorityCores": usage("lowPriorityCores", 3)}},
                "3 cores of the quota lowPriorityCores in",
            ),
            (
                {"GPU_MIN_COUNT": "2"},
                {"usages": {"cores": usage("cores", 100)}},
                "2 of Standard_NC4as_T4_v3 need 8",
            ),
            (
                {"GPU_NODE_SIZE": "Standard_D4as_v5", "USE_SPOT": "false"},
                {},
                "and 1 of Standard_D4as_v5 need 20",
            ),
            (
                {"WORKER_HOST": "aca"},
                {"gpu_profiles": ["Consumption"]},
                "does not offer Container Apps with",
            ),
        ],
    )
    def test_missing_service_or_quota_stops(
        self, scripts: ScriptRunner, choices: dict[str, str], missing: dict[str, Any], reason: str
    ) -> None:
        scripts.update_state(values={**choices, "NODE_POOLS": "unchanged"}, **missing)
        assert reason in scripts.check_error("check-tools.sh")
        assert scripts.state["values"]["NODE_POOLS"] == "unchanged"

        scripts.update_state(values={"CHECK_REGION": "false"})
        scripts.check_output("check-tools.sh")
        assert scripts.state["values"]["NODE_POOLS"] == "none"

    @pytest.mark.parametrize(
        ("gpus", "choices", "reason"),
        [
            (2, {"WORKER_HOST": "aca"}, "a replica on Container Apps has one"),
            (2, {"GPU_SHARING": "mig"}, "but GPU_SHARING is mig"),
            (2, {}, "a model needs 2 GPUs, but Standard_NC4as_T4_v3 has 1"),
            (8, {"GPU_NODE_SIZE": "Standard_D4as_v5"}, "but Standard_D4as_v5 has 0"),
            (8, {"GPU_NODE_SIZE": "Standard_ND96asr_v4", "USE_SPOT": "false"}, ""),
        ],
    )
    def test_gpus_of_a_worker_are_in_one_machine(
        self, scripts: ScriptRunner, gpus: int, choices: dict[str, str], reason: str
    ) -> None:
        path = scripts.root / "infra" / "catalogue.json"
        before = path.read_text("utf-8")
        scripts.update_state(
            values=choices,
            usages={
                "cores": usage("cores", 200),
                "Standard NDASv4_A100 Family": usage("Standard NDASv4_A100 Family", 96),
            },
        )
        try:
            path.write_text(before.replace('"mostGpus": 1', f'"mostGpus": {gpus}'), "utf-8")
            if reason:
                assert reason in scripts.check_error("check-tools.sh")
            else:
                scripts.check_output("check-tools.sh")
        finally:
            path.write_text(before, "utf-8")

    def test_unneeded_services_are_ignored(self, scripts: ScriptRunner) -> None:
        scripts.update_state(
            values={"DURABLE_BACKEND": "storage", "USE_SPOT": "false"},
            scheduler_regions=["East US"],
            usages={"lowPriorityCores": usage("lowPriorityCores", 0)},
        )
        scripts.check_output("check-tools.sh")

    def test_existing_nodes_need_no_quota(self, scripts: ScriptRunner) -> None:
        used = {"standardDASv5Family": 16, T4: 4, "lowPriorityCores": 4, "cores": 20}
        scripts.update_state(
            pools={"system": 2, "cpu": 1, "gpu": 1, "gpuspot": 1},
            usages={name: usage(name, USAGE_LIMITS[name], count) for name, count in used.items()},
        )
        scripts.check_output("check-tools.sh")

    @pytest.mark.parametrize(
        ("name", "settings", "reason"),
        [
            ("GATEWAY_SETTINGS", "DEFAULT_WAIT_SECONDS", "must be NAME=value"),
            ("WORKER_SETTINGS", "A=1;2=3", "must be NAME=value"),
            ("GATEWAY_SETTINGS", "A=1;RETENTION_HOURS=9", "so set it by itself"),
        ],
    )
    def test_bad_settings_are_refused(
        self, scripts: ScriptRunner, name: str, settings: str, reason: str
    ) -> None:
        scripts.update_state(values={name: settings})
        assert reason in scripts.check_error("check-tools.sh")
        scripts.update_state(values={name: "A=1;B=x=y"})
        scripts.check_output("check-tools.sh")

    def test_email_address_for_alerts_is_asked(self, scripts: ScriptRunner) -> None:
        scripts.update_state(values={"ALERT_EMAIL": ""})
        assert "ALERT_EMAIL is not set" in scripts.check_error("check-tools.sh", typed="")
        assert scripts.run("check-tools.sh", typed="me@example.org\n").returncode == 0
        assert scripts.state["values"]["ALERT_EMAIL"] == "me@example.org"
        assert scripts.run("check-tools.sh", typed="").returncode == 0

    def test_missing_sign_in_is_reported(self, scripts: ScriptRunner) -> None:
        scripts.update_state(failing={"az account show": 1})
        assert "az login" in scripts.run("check-tools.sh").stderr


class TestPipelineIdentity:
    def test_only_the_templates_roles_are_assignable(self, scripts: ScriptRunner) -> None:
        scripts.update_state(failing={"az role assignment create": 1})
        for _ in range(2):
            printed = scripts.check_output(
                "pipeline-identity.sh", "acme/loosely", "trial", "what-if"
            )
            assert "AZURE_CLIENT_ID=44444444-4444-4444-4444-444444444444\n" in printed
        assert len(scripts.calls("az", "ad", "app", "create")) == 1
        assert len(scripts.calls("az", "ad", "sp", "create")) == 1
        assert scripts.state["credentials"] == {
            name: f"repo:acme/loosely:environment:{name}" for name in ("trial", "what-if")
        }
        assigned = scripts.state["assigned"]
        administrator = "Role Based Access Control Administrator"
        assert assigned.keys() == {"Contributor", administrator}
        roles = json.loads((scripts.root / "infra" / "roles.json").read_text("utf-8"))
        for action, source in (("write", "@Request"), ("delete", "@Resource")):
            [part] = [each for each in assigned[administrator].split(" AND ") if action in each]
            assert source in part
            ids = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", part)
            assert sorted(ids) == sorted(roles.values())

    def test_github_environment_is_required(self, scripts: ScriptRunner) -> None:
        ended = scripts.run("pipeline-identity.sh", "acme/loosely")
        assert ended.returncode == 1
        assert not scripts.calls("az")


def test_base_image_moves_in_all_files(scripts: ScriptRunner) -> None:
    paths = [
        scripts.root / path
        for path in ("worker/Dockerfile", "infra/k8s/components/node-cache/folder.yaml")
    ]
    before = [path.read_text("utf-8") for path in paths]
    digest = "sha256:" + "a" * 64
    try:
        for python, found in (("3.13.1", digest), ("3.12.99", "none")):
            scripts.update_state(python=python, digest=found)
            assert scripts.run("update-base-image.sh").returncode == 1
        assert [path.read_text("utf-8") for path in paths] == before
        scripts.update_state(python="3.12.99", digest=digest)
        new = scripts.check_output("update-base-image.sh").strip()
        assert new.endswith(f"/python:3.12.99-slim-bookworm@{digest}")
        dockerfile, folder = (path.read_text("utf-8") for path in paths)
        assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == [new, new]
        assert f"image: {new}\n" in folder
        assert scripts.check_output("update-base-image.sh").strip() == new
    finally:
        for path, text in zip(paths, before, strict=True):
            path.write_text(text, encoding="utf-8")


def test_compose_script_writes_the_queues(scripts: ScriptRunner) -> None:
    scripts.check_output("compose.sh", "--detach")
    written = json.loads((scripts.root / "infra" / "build" / "Config.json").read_text("utf-8"))
    [namespace] = written["UserConfig"]["Namespaces"]
    assert {"classifier", "classifier-low"} <= {queue["Name"] for queue in namespace["Queues"]}
    [call] = scripts.calls("docker", "compose")
    assert call[-2:] == ["up", "--detach"]


def test_keys_script_names_a_missing_value(scripts: ScriptRunner) -> None:
    state = scripts.state
    del state["values"]["KEY_VAULT_NAME"]
    (scripts.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")
    assert "KEY_VAULT_NAME" in scripts.check_error("keys.sh")
