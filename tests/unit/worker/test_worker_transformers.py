"""Test the transformers pipelines of models.md with tiny models that the tests create."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.catalogue import Catalogue
from worker.inference.loaded_model import LoadedModel
from worker.models import Weights

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(240),
    # Newer torch has renamed what transformers uses.
    pytest.mark.filterwarnings("ignore"),
]

NOOP = Catalogue.load()["noop"]
GUIDE = (Path(__file__).parents[3] / "docs/how-to/models.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(folder: Path, task: str, media_type: str, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """Load the model whose code is in docs/how-to/models.md, with the files in `folder / "files"`.

    The weights are moved to `folder / "weights"`, because the model of models.md gets its
    weights separately from the folder with its other files.
    """
    [code] = re.findall(r"^```python\n([^`]*transformers[^`]*)^```", GUIDE, re.MULTILINE)
    name = f"pipeline_of_{folder.name}"
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    weights = (folder / "files" / "model.safetensors").rename(folder / "weights")
    model = replace(
        NOOP,
        implementation=name,
        media_types=(media_type,),
        options={"task": task, "files": str(folder / "files")},
    )
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    return LoadedModel.load(model, 1, Weights(weights, sha256))


def answer(loaded: LoadedModel, item: object) -> Any:
    [output] = loaded.call_model([loaded.preprocess(item)])
    return loaded.encode_output(output).first.value  # type: ignore[union-attr]  # JSON


def test_text_pipeline_returns_label_and_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(files)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(files)
    loaded = load(tmp_path, "text-classification", "text/plain", monkeypatch)
    assert loaded.accepts == "text"
    [found] = answer(loaded, "good good bad")
    assert found["label"] in {"NEGATIVE", "POSITIVE"}
    assert 0.5 <= found["score"] <= 1


def test_picture_pipeline_returns_labels_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=16,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    transformers.ViTForImageClassification(config).save_pretrained(files)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(files)
    loaded = load(tmp_path, "image-classification", "image/png", monkeypatch)
    assert loaded.accepts == "image"
    found = answer(loaded, Image.new("RGB", (30, 20), (255, 0, 0)))
    assert {each["label"] for each in found} == {"cat", "dog"}
    assert sum(each["score"] for each in found) == pytest.approx(1, abs=1e-3)
