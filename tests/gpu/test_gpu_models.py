"""Test on a GPU the models that are part of Loosely."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import models

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, InlineJson
from contract.weights import parse_weights
from worker.inference.loaded_model import LoadedModel
from worker.models.published import build
from worker.weights.store import find_file
from worker.weights.weights import Weights

pytestmark = [pytest.mark.gpu, pytest.mark.torch]

EXAMPLES = Path(__file__).parents[2] / "examples"
CATALOGUE = Catalogue.load()
PICTURES = CATALOGUE["classifier"]


def answer(loaded: LoadedModel, name: str, media_type: str) -> InlineJson | InlineBytes:
    data = (EXAMPLES / name).read_bytes()
    batch = [loaded.prepare(data, media_type) for _ in range(3)]
    finished = [loaded.encode_output(output).first for output in loaded.call_model(batch)]
    assert len(finished) == 3
    return finished[0]


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_classifier_recognises_a_cat_in_each_precision(precision: str) -> None:
    model = replace(PICTURES, options={"precision": precision})
    found = answer(LoadedModel.load(model, torch_thread_count=1), "chelsea.jpg", "image/jpeg")
    assert isinstance(found, InlineJson)
    assert {label["label"] for label in found.value["labels"][:3]} == {
        *("tiger cat", "Egyptian cat", "tabby")
    }


def test_voice_activity_finds_speech() -> None:
    model = CATALOGUE["voice-activity"]
    weights = Weights(find_file(parse_weights(model.weights)))
    loaded = LoadedModel.load(model, torch_thread_count=1, weights=weights)
    found = answer(loaded, "speech.wav", "audio/wav")
    assert isinstance(found, InlineJson)
    (segment,) = found.value["speech"]
    assert segment["start_seconds"] == pytest.approx(0.16, abs=0.05)
    assert segment["end_seconds"] == pytest.approx(0.77, abs=0.05)


def seeded(folder: Path, kind: Any, architecture: str) -> Weights:
    torch.manual_seed(7)
    path = folder / "weights.pth"
    torch.save(build(kind, architecture, weights_backbone=None).state_dict(), path)
    return Weights(path)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_detector_returns_boxes(tmp_path: Path, precision: str) -> None:
    architecture = "ssdlite320_mobilenet_v3_large"
    model = replace(
        PICTURES,
        implementation="worker.models.torchvision_detector",
        options={"architecture": architecture, "min_score": 0.01, "precision": precision},
    )
    weights = seeded(tmp_path, models.detection, architecture)
    found = answer(LoadedModel.load(model, 1, weights), "chelsea.jpg", "image/jpeg")
    assert isinstance(found, InlineJson)
    assert found.value["objects"]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_segmenter_returns_a_mask_of_the_picture_size(tmp_path: Path, precision: str) -> None:
    architecture = "lraspp_mobilenet_v3_large"
    model = replace(
        PICTURES,
        implementation="worker.models.torchvision_segmenter",
        options={"architecture": architecture, "precision": precision},
        result_media_type="image/png",
    )
    weights = seeded(tmp_path, models.segmentation, architecture)
    found = answer(LoadedModel.load(model, 1, weights), "chelsea.jpg", "image/jpeg")
    assert isinstance(found, InlineBytes)
    with Image.open(io.BytesIO(found.data)) as mask:
        assert mask.size == (384, 255)
