"""Write the weights of three test models and an example recording."""

import wave
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torchvision.models.detection import ssdlite320_mobilenet_v3_large


def write_weights(folder: Path) -> None:
    weights = folder / "models" / "weights"
    weights.mkdir()
    torch.manual_seed(1)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), weights / "detector.pth")
    scores = {"weight": torch.ones(3, 4), "bias": torch.arange(3.0)}
    save_file(scores, weights / "scores.safetensors")
    average = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["picture"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["scores"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(average, opset_imports=opset, ir_version=8), weights / "tagger.onnx"
    )


def write_tone(path: Path) -> None:
    """Write a WAV file with one second of a 440 Hz tone, at half of the maximum amplitude."""
    turns = np.arange(16_000) / 16_000 * 440
    samples = (np.sin(turns * 2 * np.pi) * 16_384).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
