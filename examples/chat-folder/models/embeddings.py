"""The model `embeddings`: all-MiniLM-L6-v2, a vector of 384 numbers for each sentence."""

from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from zipfile import ZipFile

import torch
from transformers import AutoModel, AutoTokenizer

from worker.models import Accepts, InvalidInput, Weights


class Infer:
    """Answers the request of OpenAI's embeddings, a text, or a list of texts."""

    accepts: ClassVar[Accepts] = "json"

    def __init__(self, weights: Weights, max_texts: int = 256) -> None:
        self._max_texts = max_texts
        with TemporaryDirectory() as folder, ZipFile(weights.path) as archive:
            archive.extractall(folder)
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            network = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self._network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, item: Any) -> dict[str, Any]:
        """Return the normalised vectors, and the number of tokens."""
        texts = item.get("input") if isinstance(item, dict) else item
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise InvalidInput("the input must be a text or a list of texts, not of tokens")
        if not 1 <= len(texts) <= self._max_texts:
            raise InvalidInput(f"the input must have 1 to {self._max_texts} texts")
        tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self._network.device)
        mask = tokens["attention_mask"].unsqueeze(2)
        with torch.inference_mode():
            states = self._network(**tokens).last_hidden_state
        means = (states * mask).sum(1) / mask.sum(1)
        vectors = torch.nn.functional.normalize(means).tolist()
        return {"embeddings": vectors, "prompt_tokens": int(mask.sum())}
