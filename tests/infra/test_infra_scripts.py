"""infra/scripts, run as they are, among programs that stand for Azure's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.webhook import parse_secrets
from gateway.http.keys import KeyRing, parse_keys
from tests.infra import fake_cloud
from tests.infra.deployment import of_kind, pod
from tests.infra.scripted import VALUES, Place


def applied(place: Place) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(place.state["applied"][-1]) if each]


class TestKeys:
    def test_writes_what_is_missing_once(self, place: Place) -> None:
        key = place.done("keys.sh").strip()
        secrets = place.state["secrets"]
        assert secrets.keys() == {"reply-token-keys", "webhook-secrets", "api-keys"}
        assert parse_secrets(secrets["webhook-secrets"])
        caller = KeyRing(parse_keys(secrets["api-keys"])).caller(key.encode())
        assert caller is not None
        assert "admin" in caller.scopes
        assert len(place.called("az", "functionapp", "restart")) == 1
        assert place.state["gateway"] == secrets, "the platform has looked at the vault again"

        assert place.done("keys.sh") == ""
        assert place.state["secrets"] == secrets
        assert len(place.called("az", "functionapp", "restart")) == 1, "nothing was changed"

    def test_shows_no_secret_to_the_machine(self, place: Place) -> None:
        key = place.done("keys.sh").strip()
        place.done("keys.sh", "--rotate", "webhook-secrets")
        entry = json.loads(place.state["secrets"]["api-keys"])[0]["hash"]
        kept = [
            *place.state["secrets"]["reply-token-keys"].split(","),
            *place.state["secrets"]["webhook-secrets"].split(","),
        ]
        asked = json.dumps(fake_cloud.calls(place.bin))
        assert not [secret for secret in (key, entry, *kept) if secret in asked]
        files = {
            each[each.index("--file") + 1]
            for each in place.called("az", "keyvault", "secret", "set")
        }
        assert files
        assert not [file for file in files if Path(file).exists()]

    @pytest.mark.parametrize("name", ["reply-token-keys", "webhook-secrets"])
    def test_a_rotated_key_stays_second_and_goes_at_the_next(self, place: Place, name: str) -> None:
        place.done("keys.sh")
        first = place.state["secrets"][name]
        place.done("keys.sh", "--rotate", name)
        new, old = place.state["secrets"][name].split(",")
        assert old == first != new
        place.done("keys.sh", "--rotate", name)
        assert place.state["secrets"][name].split(",")[1:] == [new]
        assert place.state["gateway"] == place.state["secrets"]
        assert len(place.called("az", "functionapp", "restart")) == 3

    def test_what_was_written_by_hand_is_applied(self, place: Place) -> None:
        place.done("keys.sh")
        place.change(secrets={"api-keys": "[]"})
        place.done("keys.sh", "--apply")
        assert place.state["gateway"]["api-keys"] == "[]"

    def test_waits_for_roles(self, place: Place) -> None:
        names = ("list", "set")
        place.change(failing={f"az keyvault secret {name}": 2 for name in names})
        place.done("keys.sh")
        assert len(place.state["secrets"]) == 3

    def test_a_vault_that_cannot_be_read_is_left_alone(self, place: Place) -> None:
        place.done("keys.sh")
        before = place.state["secrets"]
        place.change(failing={"az keyvault secret list": 99})
        assert place.run("keys.sh").returncode == 1
        place.change(failing={"az keyvault secret list": 0, "az keyvault secret show": 1})
        assert place.run("keys.sh", "--rotate", "webhook-secrets").returncode == 1
        assert place.state["secrets"] == before

    def test_a_pipeline_gets_no_key_to_print(self, place: Place) -> None:
        ended = place.run("keys.sh", CI="true")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "api-keys" not in place.state["secrets"]

    def test_other_names_are_refused(self, place: Place) -> None:
        assert place.run("keys.sh", "--rotate", "api-keys").returncode == 1
        assert place.run("keys.sh", "--rotate").returncode != 0
        assert "secrets" not in place.state or not place.state["secrets"]


class TestDeployWorker:
    def test_builds_once_and_rolls_out_what_it_built(self, place: Place) -> None:
        place.done("deploy-worker.sh")
        place.done("deploy-worker.sh")
        assert len(place.called("az", "acr", "build")) == 1
        [(tag, digest)] = place.state["images"].items()
        assert re.fullmatch(r"worker:[0-9a-f]{12}", tag)
        assert place.state["applied"][0] == place.state["applied"][1]
        image = f"crtrial.azurecr.io/worker@{digest}"
        manifests = applied(place)
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
        assert "registry.example" not in place.state["applied"][-1]
        assert place.called("kubelogin", "convert-kubeconfig")

    def test_what_is_not_committed_is_built_anew(self, place: Place) -> None:
        stray = place.root / "worker" / "stray.py"
        stray.touch()
        try:
            place.done("deploy-worker.sh")
        finally:
            stray.unlink()
        [tag] = place.state["images"]
        assert re.fullmatch(r"worker:[0-9a-f]{12}-\d{14}", tag)

    def test_rolls_back_to_a_tag(self, place: Place) -> None:
        place.change(images={"worker:earlier": "sha256:" + "e" * 64})
        place.done("deploy-worker.sh", "earlier")
        assert not place.called("az", "acr", "build")
        assert f"crtrial.azurecr.io/worker@sha256:{'e' * 64}" in place.state["applied"][-1]

        ended = place.run("deploy-worker.sh", "unknown")
        assert ended.returncode == 1
        assert "no worker:unknown" in ended.stderr
        assert len(place.state["applied"]) == 1

    @pytest.mark.parametrize(
        ("values", "overlay"),
        [
            ({"USE_SPOT": "true"}, "spot"),
            ({"USE_SPOT": "false"}, "ondemand"),
            ({"GPU_SHARING": "mig"}, "mig"),
        ],
    )
    def test_takes_the_overlay_of_the_choices(
        self, place: Place, values: dict[str, str], overlay: str
    ) -> None:
        place.change(values=values, images={"worker:earlier": "sha256:0"})
        assert f"by overlay {overlay}\n" in place.run("deploy-worker.sh", "earlier").stderr
        told = place.run("deploy-worker.sh", "earlier", OVERLAY="shared-gpu").stderr
        assert "by overlay shared-gpu\n" in told

    def test_container_apps_get_the_image(self, place: Place) -> None:
        place.change(values={"WORKER_HOST": "aca"})
        place.done("deploy-worker.sh")
        [digest] = place.state["images"].values()
        image = f"crtrial.azurecr.io/worker@{digest}"
        assert place.state["apps"] == image
        assert place.state["values"]["WORKER_IMAGE"] == image, "the next provision keeps it"
        assert not place.called("kubectl")

    def test_waits_for_roles(self, place: Place) -> None:
        place.change(failing={"kubectl apply": 1})
        place.done("deploy-worker.sh")
        assert len(place.state["applied"]) == 1

    def test_nothing_is_rolled_out_with_a_value_that_is_missing(self, place: Place) -> None:
        state = place.state
        del state["values"]["KEDA_CLIENT_ID"]
        (place.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")
        ended = place.run("deploy-worker.sh")
        assert ended.returncode == 1
        assert "KEDA_CLIENT_ID" in ended.stderr
        assert not place.called("kubectl", "apply")

    def test_a_build_that_fails_is_not_paid_for_again(self, place: Place) -> None:
        place.change(failing={"az acr build": 9})
        assert place.run("deploy-worker.sh").returncode != 0
        assert len(place.called("az", "acr", "build")) == 1

    def test_pods_get_the_webhooks_secret_from_the_vault(self, place: Place) -> None:
        place.change(values={"POD_WEBHOOK_SECRETS": "true"}, images={"worker:earlier": "sha256:0"})
        place.done("deploy-worker.sh", "earlier")
        manifests = applied(place)
        [found] = of_kind(manifests, "SecretProviderClass")
        assert found["apiVersion"] == "secrets-store.csi.x-k8s.io/v1"
        assert found["spec"]["provider"] == "azure"
        parameters = found["spec"]["parameters"]
        assert parameters["clientID"] == VALUES["WORKER_CLIENT_ID"]
        assert parameters["keyvaultName"] == "kv-trial"
        assert parameters["tenantID"] == VALUES["AZURE_TENANT_ID"]
        assert all(isinstance(value, str) for value in parameters.values())
        objects = [yaml.safe_load(each) for each in yaml.safe_load(parameters["objects"])["array"]]
        assert objects == [{"objectName": "webhook-secrets", "objectType": "secret"}]
        [synced] = found["spec"]["secretObjects"]
        assert synced["data"] == [{"objectName": "webhook-secrets", "key": "WEBHOOK_SECRETS"}]
        for deployment in of_kind(manifests, "Deployment"):
            spec = pod(deployment)
            assert deployment["metadata"]["namespace"] == found["metadata"]["namespace"]
            [volume] = [each for each in spec["volumes"] if "csi" in each]
            assert volume["csi"]["driver"] == "secrets-store.csi.k8s.io"
            name = volume["csi"]["volumeAttributes"]["secretProviderClass"]
            assert name == found["metadata"]["name"]
            container = spec["containers"][0]
            assert volume["name"] in {each["name"] for each in container["volumeMounts"]}
            [setting] = [each for each in container["env"] if each["name"] == "WEBHOOK_SECRETS"]
            reference = {"name": synced["secretName"], "key": "WEBHOOK_SECRETS"}
            assert setting["valueFrom"] == {"secretKeyRef": reference}


class TestUploadWeights:
    def test_uploads_once_and_says_what_the_catalogue_needs(
        self, place: Place, tmp_path: Path
    ) -> None:
        weights = tmp_path / "net.safetensors"
        weights.write_bytes(b"one")
        told = place.done("upload-weights.sh", str(weights))
        assert told == place.done("upload-weights.sh", str(weights))
        assert len(place.called("az", "storage", "blob", "upload")) == 1
        assert 'weights = "blob:weights/net.safetensors"' in told
        assert place.state["blobs"]["net.safetensors"] in told

    def test_other_bytes_want_another_name(self, place: Place, tmp_path: Path) -> None:
        weights = tmp_path / "net.safetensors"
        weights.write_bytes(b"one")
        place.done("upload-weights.sh", str(weights))
        weights.write_bytes(b"two")
        ended = place.run("upload-weights.sh", str(weights))
        assert ended.returncode == 1
        assert "other bytes" in ended.stderr
        assert 'blob:weights/net-2"' in place.done("upload-weights.sh", str(weights), "net-2")

    def test_a_file_that_is_none_is_refused(self, place: Place) -> None:
        assert place.run("upload-weights.sh", "nowhere").returncode == 1
        assert not place.called("az")


class TestTeardown:
    def test_does_nothing_on_another_answer(self, place: Place) -> None:
        for typed in ("yes\n", "", "\n"):
            assert place.run("teardown.sh", typed=typed).returncode == 1
        assert not place.called("azd", "down")
        assert place.state["group"]

    def test_deletes_once(self, place: Place) -> None:
        assert place.run("teardown.sh", typed="trial\n").returncode == 0
        assert not place.state["group"]
        ended = place.run("teardown.sh")
        assert ended.returncode == 0
        assert "nothing to do" in ended.stderr
        assert len(place.called("azd", "down")) == 1

    def test_deletes_nothing_where_it_cannot_look(self, place: Place) -> None:
        place.change(failing={"az group exists": 1})
        assert place.run("teardown.sh", typed="trial\n").returncode != 0
        assert not place.called("azd", "down")


class TestCheckTools:
    def test_sets_the_budgets_first_month_when_it_is_made(self, place: Place) -> None:
        place.done("check-tools.sh")
        assert "BUDGET_START" not in place.state["values"], "no budget, no month"
        place.change(values={"MONTHLY_BUDGET": "300"})
        place.done("check-tools.sh")
        start = place.state["values"]["BUDGET_START"]
        assert re.fullmatch(r"\d{4}-\d{2}-01", start)
        place.change(values={"BUDGET_START": "2020-01-01"})
        place.done("check-tools.sh")
        assert place.state["values"]["BUDGET_START"] == "2020-01-01"
        place.change(group=False)
        place.done("check-tools.sh")
        assert place.state["values"]["BUDGET_START"] == start, "it went with its group"

    def test_names_what_is_not_installed(self, place: Place) -> None:
        (place.bin / "kubelogin").unlink()
        ended = place.run("check-tools.sh")
        assert ended.returncode == 1
        assert "kubelogin is not installed" in ended.stderr
        place.change(values={"WORKER_HOST": "aca"})
        place.done("check-tools.sh")

    def test_refuses_a_python_that_cannot_make_keys(self, place: Place) -> None:
        old = place.bin / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        assert "older than 3.11" in place.run("check-tools.sh").stderr

    def test_tells_the_templates_which_pools_there_are(self, place: Place) -> None:
        place.change(pools={"rg-trial": "system\ngpu"})
        place.done("check-tools.sh")
        assert place.state["values"]["NODE_POOLS"] == "system,gpu"
        place.change(failing={"az aks list": 1})
        assert place.run("check-tools.sh").returncode == 1, "what is not known is not guessed"
        assert place.state["values"]["NODE_POOLS"] == "system,gpu"
        place.change(group=False)
        place.done("check-tools.sh")
        assert place.state["values"]["NODE_POOLS"] == "none", "the group is not there"

    def test_az_and_azd_work_in_one_subscription(self, place: Place) -> None:
        place.change(values={"AZURE_SUBSCRIPTION_ID": "another"})
        ended = place.run("check-tools.sh")
        assert ended.returncode == 1
        assert "az account set --subscription another" in ended.stderr
        place.change(subscription="another")
        place.done("check-tools.sh")

    @pytest.mark.parametrize(
        ("choices", "registered"),
        [
            ({}, ["Microsoft.Compute", "Microsoft.Network"]),
            ({"WORKER_HOST": "aca"}, []),
            ({"WORKER_HOST": "aca", "PRIVATE_NETWORK": "true"}, ["Microsoft.App"]),
        ],
    )
    def test_registers_the_providers_that_no_template_names(
        self, place: Place, choices: dict[str, str], registered: list[str]
    ) -> None:
        place.change(values=choices)
        place.done("check-tools.sh")
        calls = place.called("az", "provider", "register")
        assert [call[call.index("--namespace") + 1] for call in calls] == registered

    def test_tells_who_is_not_signed_in(self, place: Place) -> None:
        place.change(failing={"az account show": 1})
        assert "az login" in place.run("check-tools.sh").stderr


def test_compose_gets_the_queues_of_the_catalogue(place: Place) -> None:
    place.done("compose.sh", "--detach")
    written = json.loads((place.root / "infra" / "build" / "Config.json").read_text("utf-8"))
    [namespace] = written["UserConfig"]["Namespaces"]
    assert {"classifier", "classifier-low"} <= {queue["Name"] for queue in namespace["Queues"]}
    [call] = place.called("docker", "compose")
    assert call[-2:] == ["up", "--detach"]


def test_a_value_that_is_missing_is_named(place: Place) -> None:
    state = place.state
    del state["values"]["KEY_VAULT_NAME"]
    (place.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")
    ended = place.run("keys.sh")
    assert ended.returncode == 1
    assert "KEY_VAULT_NAME" in ended.stderr
