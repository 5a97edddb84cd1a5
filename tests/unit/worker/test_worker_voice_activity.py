"""Test the voice activity model with its trained weights, on real speech."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contract.catalogue import Catalogue
from tests.unit.worker.managed_models import no_account
from tests.unit.worker.pictures import encode_wav
from worker.errors import InvalidInput
from worker.inference.loaded_model import LoadedModel, ModelLoader
from worker.inputs.audio import Audio, open_recording
from worker.models.voice_activity import Infer, spoken
from worker.objects.azure import AzureBlobReader
from worker.weights.store import WeightsStore
from worker.weights.weights import Weights

pytestmark = pytest.mark.torch

SPEECH = (Path(__file__).parents[3] / "examples" / "speech.wav").read_bytes()
MODEL = Catalogue.load()["voice-activity"]
RATE = 16_000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    blobs = AzureBlobReader(no_account)
    library = WeightsStore(tmp_path_factory.mktemp("cache"), blobs)
    return ModelLoader(library, torch_thread_count=1).load(MODEL)


def wav(samples: Any, rate: int = RATE) -> bytes:
    body = bytes((np.clip(samples, -1, 1) * 32767).astype("<i2"))
    return encode_wav(body, rate=rate)


def heard(loaded: LoadedModel, *recordings: bytes) -> list[dict[str, Any]]:
    outputs = loaded.call_model([loaded.prepare(data, "audio/wav") for data in recordings])
    return [loaded.encode_output(output).first.value for output in outputs]  # type: ignore[union-attr]  # JSON


def test_segments_of_speech_are_found(loaded: LoadedModel) -> None:
    (found,) = heard(loaded, SPEECH)
    assert found["duration_seconds"] == pytest.approx(0.906, abs=1e-3)
    (segment,) = found["speech"]
    assert segment["start_seconds"] == pytest.approx(0.16, abs=0.05)
    assert segment["end_seconds"] == pytest.approx(0.77, abs=0.05)
    assert segment["score"] > 0.7


def test_silence_noise_and_tones_have_no_speech(loaded: LoadedModel) -> None:
    noise = np.random.default_rng(7).normal(0, 0.05, 2 * RATE)
    tone = np.sin(np.arange(2 * RATE) * 2 * np.pi * 440 / RATE) * 0.3
    for found in heard(loaded, wav(np.zeros(2 * RATE)), wav(noise), wav(tone)):
        assert found == {"speech": [], "duration_seconds": 2.0}


def test_batch_has_the_scores_of_single_recordings(loaded: LoadedModel) -> None:
    speech = open_recording(SPEECH, RATE).decode().samples
    later = wav(np.concatenate([np.zeros(RATE), speech, np.zeros(RATE), speech]))
    recordings = [SPEECH, later, wav(np.zeros(100))]
    together = heard(loaded, *recordings)
    alone = [heard(loaded, recording)[0] for recording in recordings]
    assert [len(found["speech"]) for found in together] == [1, 2, 0]
    for one, other in zip(together, alone, strict=True):
        assert one["duration_seconds"] == other["duration_seconds"]
        assert one["speech"] == [pytest.approx(segment, abs=1e-3) for segment in other["speech"]]
    starts = [segment["start_seconds"] for segment in together[1]["speech"]]
    assert starts == pytest.approx([1.16, 3.07], abs=0.1)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_scores_are_those_of_the_published_program(tmp_path: Path) -> None:
    # The package's TorchScript program with the same weights must give the same scores.
    found = importlib.util.find_spec("silero_vad")
    assert found is not None
    folder = Path((found.submodule_search_locations or [""])[0])
    published: Any = torch.jit.load(folder / "data" / "silero_vad.jit")  # type: ignore[no-untyped-call]
    renames = {
        "stft.forward_basis_buffer": "stft_conv.weight",
        "decoder.rnn": "lstm_cell",
        "decoder.decoder.2": "final_conv",
        **{f"encoder.{number}.reparam_conv": f"conv{number + 1}" for number in range(4)},
    }
    state = {}
    for name, value in (*published.named_parameters(), *published.named_buffers()):
        if name.startswith("_model."):
            for old, new in renames.items():
                name = name.replace(old, new)  # noqa: PLW2901  renamed step by step
            state[name.removeprefix("_model.")] = value.detach().clone()
    save_file(state, tmp_path / "weights")
    infer = Infer(Weights(tmp_path / "weights"))

    samples = open_recording(SPEECH, RATE).decode().samples[: 28 * 512]
    with torch.inference_mode():
        steps = torch.from_numpy(samples).reshape(-1, 1, 512)
        expected = [float(published(step, RATE)) for step in steps]
    (ours,) = infer([infer.preprocess(Audio(samples, RATE))])
    assert ours.scores == pytest.approx(expected, abs=1e-3)


def test_too_long_recording_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(InvalidInput, match="lasts 601 s; at most 600 s are accepted"):
        loaded.prepare(wav(np.zeros(601 * 4_000), 4_000), "audio/x-wav")


def steps(*parts: tuple[float, int]) -> list[float]:
    return [score for score, count in parts for _ in range(count)]


@pytest.mark.parametrize(
    ("scores", "segments"),
    [
        ([], []),
        (steps((0.9, 7)), []),
        (steps((0.9, 10)), [(0.0, 0.32)]),
        # A short silence, and scores between the two thresholds, belong to the speech.
        (steps((0.9, 10), (0.1, 2), (0.9, 10)), [(0.0, 0.704)]),
        (steps((0.9, 10), (0.4, 20), (0.1, 9)), [(0.0, 0.99)]),
        (steps((0.1, 10), (0.9, 10), (0.1, 10), (0.9, 10)), [(0.29, 0.67), (0.93, 1.28)]),
        # The margins of the two segments meet, and do not overlap.
        (steps((0.9, 9), (0.1, 4), (0.9, 9)), [(0.0, 0.318), (0.386, 0.704)]),
    ],
)
def test_scores_become_segments(scores: list[float], segments: list[tuple[float, float]]) -> None:
    found = list(spoken(scores, len(scores) * 0.032, 0.5))
    expected = [pytest.approx(segment, abs=1e-3) for segment in segments]
    assert [(start, end) for start, end, _ in found] == expected
