"""A model whose option `makes` chooses one of the kinds of results that the OpenAI API shows."""

import hashlib
import io
import json
import wave
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from worker.models import Accepts


class Infer:
    """Makes a result that depends on the input only."""

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, makes: str) -> None:
        self._make = getattr(self, f"make_{makes}")

    def __call__(self, item: bytes, parameters: Mapping[str, Any]) -> Any:
        return self._make(item, parameters)

    @staticmethod
    def make_vectors(item: bytes, _: Mapping[str, Any]) -> list[list[float]]:
        given = json.loads(item)["input"]
        texts = [given] if isinstance(given, str) else given
        return [[byte / 256 for byte in hashlib.sha256(text.encode()).digest()] for text in texts]

    @staticmethod
    def make_image(item: bytes, parameters: Mapping[str, Any]) -> Image.Image:
        if "prompt" in parameters:
            return Image.open(io.BytesIO(item)).rotate(180)
        width, _, height = json.loads(item)["size"].partition("x")
        return Image.new("RGB", (int(width), int(height)), "red")

    @staticmethod
    def make_transcript(item: bytes, parameters: Mapping[str, Any]) -> dict[str, Any]:
        with wave.open(io.BytesIO(item)) as recording:
            seconds = recording.getnframes() / recording.getframerate()
        language = parameters.get("language", "en")
        return {"text": f"{seconds:.1f} s", "language": language, "duration": seconds}

    @staticmethod
    def make_speech(item: bytes, _: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        with wave.open(file, "wb") as recording:
            recording.setnchannels(1)
            recording.setsampwidth(2)
            recording.setframerate(8000)
            recording.writeframes(bytes(1600 * len(json.loads(item)["input"])))
        return file.getvalue()
