"""Test the torchvision models with random weights from a fixed seed, on real images."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import models

from contract.catalogue import Catalogue
from tests.unit.worker.pictures import encode_picture, white_png
from worker.errors import ModelUnfit, WeightsUnfit
from worker.inference.loaded_model import LoadedModel
from worker.memory.simulated_device import metering
from worker.models.published import build, find_weights_entry
from worker.models.torchvision_segmenter import palette
from worker.weights.weights import Weights

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[3]
CHELSEA = (ROOT / "examples" / "chelsea.jpg").read_bytes()
PICTURES = replace(Catalogue.load()["classifier"], name="pictures")
MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


def small() -> bytes:
    return encode_picture(Image.new("RGB", (60, 90), (200, 30, 30)))


def load(folder: Path, kind: str, network: Any, sha256: str = "", **options: Any) -> LoadedModel:
    """Load the module `torchvision_KIND` with the weights of `network` and these options."""
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    implementation = f"worker.models.torchvision_{kind}"
    model = replace(PICTURES, implementation=implementation, options=options)
    if kind == "segmenter":
        model = replace(model, result_media_type="image/png")
    return LoadedModel.load(model, torch_thread_count=1, weights=Weights(path, sha256))


def seeded(kind: Any, architecture: str, **options: Any) -> Any:
    torch.manual_seed(7)
    return build(kind, architecture, **options)


def answers(loaded: LoadedModel, *pictures: bytes) -> list[Any]:
    types = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png"}
    batch = [loaded.prepare(data, types[data[:2]]) for data in pictures]
    return [loaded.encode_output(output).first for output in loaded.call_model(batch)]


def test_classifier_returns_the_most_likely_labels(tmp_path: Path) -> None:
    architecture = "shufflenet_v2_x0_5"
    network = seeded(models, architecture)
    loaded = load(tmp_path, "classifier", network, architecture=architecture)
    one, two = answers(loaded, CHELSEA, CHELSEA)
    assert one == two
    labels = one.value["labels"]
    assert len(labels) == 5
    categories = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.meta["categories"]
    assert all(label["label"] == categories[label["index"]] for label in labels)
    scores = [label["score"] for label in labels]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1.000001
    assert loaded.call_model([loaded.sample()])


def test_custom_weights_use_the_labels_of_the_options(tmp_path: Path) -> None:
    network = seeded(models, "squeezenet1_1", num_classes=2)
    options = {"architecture": "squeezenet1_1", "labels": "cat, dog"}
    (answer,) = answers(load(tmp_path, "classifier", network, **options), CHELSEA)
    assert {label["label"] for label in answer.value["labels"]} == {"cat", "dog"}


def test_digest_determines_the_transforms() -> None:
    weights = models.MobileNet_V2_Weights
    assert find_weights_entry("mobilenet_v2", MOBILENET_SHA256) is weights.IMAGENET1K_V1
    assert find_weights_entry("mobilenet_v2", "ab" * 32) is weights.DEFAULT is weights.IMAGENET1K_V2


def test_unknown_architecture_suggests_similar_names() -> None:
    with pytest.raises(
        ModelUnfit, match=r"'resnet5' is not a model of torchvision.models; .*resnet50"
    ):
        build(models, "resnet5")
    with pytest.raises(ModelUnfit, match="ssdlite320"):
        build(models.detection, "ssdlite")


def test_weights_of_another_architecture_are_unfit(tmp_path: Path) -> None:
    network = seeded(models, "squeezenet1_1", num_classes=2)
    with pytest.raises(WeightsUnfit):
        load(tmp_path, "classifier", network, architecture="shufflenet_v2_x0_5")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    architecture = "ssdlite320_mobilenet_v3_large"
    network = seeded(models.detection, architecture, weights_backbone=None)
    folder = tmp_path_factory.mktemp("detector")
    return load(folder, "detector", network, architecture=architecture, min_score=0.01)


def test_detector_returns_boxes_inside_the_image(detector: LoadedModel) -> None:
    together = answers(detector, CHELSEA, small())
    alone = [answers(detector, data)[0] for data in (CHELSEA, small())]
    for answer, single, size in zip(together, alone, [(384, 255), (60, 90)], strict=True):
        assert (answer.value["width"], answer.value["height"]) == size
        objects = answer.value["objects"]
        assert 0 < len(objects) <= 100
        assert len(objects) == len(single.value["objects"])
        scores = [found["score"] for found in objects]
        assert scores == sorted(scores, reverse=True)
        assert all(score >= 0.01 for score in scores)
        for found in objects:
            box = found["box"]
            assert 0 <= box["left"] <= box["right"] <= size[0]
            assert 0 <= box["top"] <= box["bottom"] <= size[1]
            assert found["label"]


def test_real_images_need_no_more_memory_than_samples(tmp_path: Path) -> None:
    architecture = "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = seeded(models.detection, architecture, weights_backbone=None)
    loaded = load(tmp_path, "detector", network, architecture=architecture)

    def prepared(width: int, height: int) -> Any:
        return loaded.prepare(white_png(width, height), "image/png")

    def peak_bytes(items: list[Any]) -> int:
        with metering(lambda _: None) as peak:
            loaded.call_model(items)
            return peak()

    limit_bytes = peak_bytes([loaded.sample()] * 2)
    for shape in ((1600, 900), (1200, 900), (500, 500), (2000, 500)):
        assert peak_bytes([prepared(*shape)] * 2) <= limit_bytes
    assert peak_bytes([prepared(1600, 900), prepared(900, 1600)]) <= limit_bytes


def test_large_image_is_scaled_down_first(detector: LoadedModel) -> None:
    item = detector.prepare(white_png(4000, 20), "image/png")
    assert tuple(item.pixels.shape) == (3, 7, 1333)
    (answer,) = answers(detector, white_png(4000, 20))
    assert answer.value["width"] == 4000


@pytest.mark.parametrize("auxiliary", [{}, {"aux_loss": True}])
def test_segmenter_returns_the_class_of_each_pixel(
    tmp_path: Path, auxiliary: dict[str, bool]
) -> None:
    architecture = "deeplabv3_mobilenet_v3_large" if auxiliary else "lraspp_mobilenet_v3_large"
    network = seeded(models.segmentation, architecture, weights_backbone=None, **auxiliary)
    loaded = load(tmp_path, "segmenter", network, architecture=architecture)
    masks = answers(loaded, CHELSEA, small(), CHELSEA)
    assert masks[0] == masks[2] != masks[1]
    for mask, size in zip(masks, [(384, 255), (60, 90), (384, 255)], strict=True):
        assert mask.media_type == "image/png"
        with Image.open(io.BytesIO(mask.data)) as picture:
            assert (picture.size, picture.mode) == (size, "P")
            assert max(value for _, value in picture.getcolors() or []) < 21  # type: ignore[operator]  # palettes have numbers


def test_segmenter_has_the_palette_of_pascal_voc() -> None:
    colours = [tuple(palette()[at : at + 3]) for at in range(0, 768, 3)]
    assert colours[:5] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert colours[15] == (192, 128, 128)
    assert len(set(colours)) == 256


def test_labels_are_the_imagenet_categories() -> None:
    labels = (ROOT / "worker" / "models" / "imagenet_labels.txt").read_text(encoding="utf-8")
    assert labels.splitlines() == models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def test_classifier_does_not_import_torchvision() -> None:
    code = "import sys, worker.models.classifier; print('torchvision' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"},
    )
    assert done.stdout.split() == ["False"]
