"""Test the models that Loosely ships, with the same calls that the worker makes."""

import subprocess
import sys
from pathlib import Path

import pytest

from contract.catalogue import Catalogue
from contract.messages import InlineJson
from worker.errors import UnsupportedMediaType
from worker.inference.loaded_model import LoadedModel
from worker.models.noop import Infer as Noop

ROOT = Path(__file__).parents[3]
CATALOGUE = Catalogue.load()


def test_noop_returns_size_and_digest() -> None:
    loaded = LoadedModel.load(CATALOGUE["noop"], torch_thread_count=1)
    item = loaded.prepare(b"abc", "text/plain; charset=utf-8")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list(loaded.call_model([item, item])) == [{"size_bytes": 3, "sha256": sha256}] * 2


def test_worker_without_torch_models_imports_no_torch() -> None:
    code = (
        "import sys, worker.__main__, worker.models.noop;"
        "sys.exit(bool({'torch', 'torchvision', 'numpy'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert result.returncode == 0


def test_refused_media_type_lists_the_accepted_ones() -> None:
    loaded = LoadedModel(CATALOGUE["classifier"], Noop())
    with pytest.raises(UnsupportedMediaType, match="image/jpeg, image/png, image/webp"):
        loaded.prepare(b"{}", "application/json")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("picture", "labels"),
    [
        ("chelsea", {"tiger cat", "Egyptian cat", "tabby"}),
        ("coffee", {"espresso"}),
        ("camera", {"tripod"}),
    ],
)
def test_classifier_recognises_the_examples(picture: str, labels: set[str]) -> None:
    loaded = LoadedModel.load(CATALOGUE["classifier"], torch_thread_count=1)
    data = (ROOT / "examples" / f"{picture}.jpg").read_bytes()
    item = loaded.prepare(data, "image/jpeg")
    results = [loaded.encode_output(output).first for output in loaded.call_model([item, item])]
    one, two = (result.value["labels"] for result in results if isinstance(result, InlineJson))
    assert one[0]["label"] in labels
    assert len(one) == 5
    scores = [entry["score"] for entry in one]
    assert scores == sorted(scores, reverse=True)
    assert [entry["index"] for entry in one] == [entry["index"] for entry in two]
