"""Check that this repository's deployment files are consistent with each other and the code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.catalogue import DEFAULT_PATH, Catalogue
from infra.generate import make_files
from tests.infra.consistency import CHECKS
from tests.infra.deployment import DeploymentFiles


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_deployment_files_pass(
    check: Callable[[DeploymentFiles], None], repository: DeploymentFiles
) -> None:
    check(repository)


def test_generated_files_are_up_to_date() -> None:
    for path, text in make_files(Catalogue.load()).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is out of date: run ./dev infra"
        )


def test_each_version_gets_queues_workers_and_scaler(tmp_path: Path) -> None:
    text = DEFAULT_PATH.read_text("utf-8") + '\n[classifier."2"]\nuses_gpu = false\n'
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    before, after = (make_files(Catalogue.load(each)) for each in (DEFAULT_PATH, path))
    names = ("catalogue.json", "models.yaml")
    files = {each.name: yaml_or_json(after[each]) for each in after if each.name in names}
    queues = [queue["name"] for queue in files["catalogue.json"]["queues"]]
    assert {"classifier", "classifier-v2", "classifier-v2-low"} <= set(queues)
    [second] = [
        model for model in files["catalogue.json"]["models"] if model["name"] == "classifier-v2"
    ]
    assert (second["model"], second["device"]) == ("classifier:2", "cpu")
    rules = [rule["metadata"]["queueName"] for rule in second["scaleRules"]]
    assert rules == ["classifier-v2", "classifier-v2-low"]
    own = [
        each for each in files["models.yaml"] if each["metadata"]["name"] == "worker-classifier-v2"
    ]
    assert [each["kind"] for each in own] == ["Deployment", "ScaledObject", "PodDisruptionBudget"]
    [container] = own[0]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "classifier-v2"
    assert {"name": "WORKER_MODELS", "value": "classifier:2"} in container["env"]
    triggers = [each["metadata"]["queueName"] for each in own[1]["spec"]["triggers"]]
    assert triggers == ["classifier-v2", "classifier-v2-low"]
    # Version 1 keeps its names, so a deployment changes none of its objects.
    [manifests] = [yaml_or_json(before[each]) for each in before if each.name == "models.yaml"]
    assert [each for each in files["models.yaml"] if each in manifests] == manifests


def test_shared_or_fallback_version_keeps_a_worker(tmp_path: Path) -> None:
    split = 'versions = {"1" = 95, "2" = 5}\nfallback = "1"\n[classifier."2"]\n[classifier."3"]\n'
    text = DEFAULT_PATH.read_text("utf-8").replace("[voice-activity]", f"{split}[voice-activity]")
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    files = {each.name: text for each, text in make_files(Catalogue.load(path)).items()}
    models = yaml_or_json(files["catalogue.json"])["models"]
    counts = {model["name"]: model["minWorkers"] for model in models}
    expected = {"classifier": 0, "classifier-v2": 1, "classifier-v3": 0}
    assert counts == {**expected, "voice-activity": 0, "noop": 0}
    scaled = {
        each["spec"]["scaleTargetRef"]["name"].removeprefix("worker-"): each["spec"]
        for each in yaml_or_json(files["models.yaml"])
        if each["kind"] == "ScaledObject"
    }
    assert {name: spec["minReplicaCount"] for name, spec in scaled.items()} == counts


def manifests_of(tmp_path: Path, keys: str) -> list[dict[str, Any]]:
    path = tmp_path / "models.toml"
    entry = 'description = "-"\nmedia_types = ["application/json"]\n'
    path.write_text(f"[chat]\n{entry}{keys}", encoding="utf-8")
    files = {each.name: text for each, text in make_files(Catalogue.load(path)).items()}
    return list(yaml.safe_load_all(files["models.yaml"]))


def worker_pod(tmp_path: Path, keys: str) -> dict[str, Any]:
    pod: dict[str, Any] = manifests_of(tmp_path, keys)[0]["spec"]["template"]["spec"]
    return pod


def test_running_jobs_of_an_engine_start_no_worker(tmp_path: Path) -> None:
    keys = 'implementation = "worker.models.engine"\nmax_concurrent_jobs = 64\n'
    triggers = manifests_of(tmp_path, keys)[1]["spec"]["triggers"]
    assert [each["metadata"]["messageCount"] for each in triggers] == ["64", "100"]


def test_worker_owns_the_gpus_of_its_model(tmp_path: Path) -> None:
    pod = worker_pod(tmp_path, 'implementation = "models.chat"\ngpus = 4\n')
    [container] = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "24Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 4},
    }
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "shared-memory"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


@pytest.mark.parametrize(
    ("implementation", "cache", "has_shared_memory"),
    [("worker.models.engine", "64Gi", True), ("models.chat", "16Gi", False)],
)
def test_engine_has_more_disk_and_shared_memory(
    tmp_path: Path, implementation: str, cache: str, has_shared_memory: bool
) -> None:
    pod = worker_pod(tmp_path, f'implementation = "{implementation}"\n')
    volumes = {each["name"]: each["emptyDir"] for each in pod["volumes"]}
    assert volumes["cache"]["sizeLimit"] == cache
    assert ("shared-memory" in volumes) is has_shared_memory
    mounts = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts == volumes.keys()


def app_names(tmp_path: Path, *models: str) -> list[str]:
    path = tmp_path / "models.toml"
    entry = 'implementation = "worker.models.noop"\nmedia_types = ["text/plain"]\n'
    lines = [f'[{name}]\n{entry}description = "-"\n' for name in models]
    path.write_text("".join(lines), encoding="utf-8")
    files = make_files(Catalogue.load(path))
    [text] = [text for file, text in files.items() if file.name == "catalogue.json"]
    return [model["appName"] for model in json.loads(text)["models"]]


def test_long_model_names_get_valid_app_names(tmp_path: Path) -> None:
    models = ("classifier", "a--b", "speaker-diarization-large-v3", "speaker-diarization-large-v4")
    names = app_names(tmp_path, *models)
    assert names[0] == "worker-classifier"
    assert len(set(names)) == len(models)
    for name in names:
        assert re.fullmatch(r"[a-z](?:-?[a-z0-9])+", name), name
        assert 2 <= len(name) <= 32


def yaml_or_json(text: str) -> Any:
    documents = list(yaml.safe_load_all(text))
    return documents if len(documents) > 1 else documents[0]
