"""Find the parts of a recording that contain speech, with the network Silero VAD.

The worker executes no program of a weights file, so this module builds the network itself, and uses
only the weights of the `silero-vad` package. A recurrent layer makes the score of each step of 32
ms depend on the earlier steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from worker.models import Accepts, Audio, InvalidInput, Weights

_RATE: Final = 16_000
_STEP: Final = 512
# Each step also contains this many samples of the previous step.
_CONTEXT: Final = 64
_STEP_SECONDS: Final = _STEP / _RATE
# At most this many steps are encoded at once: about two minutes, with 40 MB of activations.
_SLAB: Final = 4096

# As the authors advise, speech begins at the threshold and ends below a lower threshold. Short
# silences are part of the speech, and segments shorter than a syllable are ignored.
_HYSTERESIS: Final = 0.15
_MIN_SILENCE_STEPS: Final = round(0.1 / _STEP_SECONDS)
_MIN_SPEECH_STEPS: Final = round(0.25 / _STEP_SECONDS)
_MARGIN_SECONDS: Final = 0.03


@dataclass(frozen=True, slots=True)
class _Scored:
    """The probability of speech in each step, and the duration of the recording in seconds."""

    scores: list[float]
    seconds: float


class Infer:
    """Finds speech in a recording: start, end and mean score of each part that contains speech."""

    accepts: ClassVar[Accepts] = "audio"
    sample_rate: ClassVar[int] = _RATE

    def __init__(
        self, weights: Weights, threshold: float = 0.5, max_seconds: float = 600.0
    ) -> None:
        self._threshold = threshold
        self._max_seconds = max_seconds
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = weights.load_into(_Network()).eval().to(self._device)
        self._memory = self._network.as_sequence()

    def sample(self) -> tuple[Tensor, float]:
        """Return ten seconds of silence, prepared by `preprocess`."""
        return self.preprocess(Audio(np.zeros(10 * _RATE, np.float32), _RATE))

    def cost(self, item: tuple[Tensor, float]) -> float:
        """Return the duration of the recording in seconds, as a measure of its size."""
        return max(item[1], _STEP_SECONDS)

    def preprocess(self, item: Audio) -> tuple[Tensor, float]:
        """Return the samples in steps of shape (steps, 576), and the duration in seconds."""
        if item.seconds > self._max_seconds:
            raise InvalidInput(
                f"the recording lasts {item.seconds:.0f} s; at most {self._max_seconds:g} s are "
                "accepted"
            )
        missing = -len(item.samples) % _STEP
        padded = torch.from_numpy(np.pad(item.samples, (_CONTEXT, missing)))
        return padded.unfold(0, _CONTEXT + _STEP, _STEP), item.seconds

    @torch.inference_mode()
    def __call__(self, batch: list[tuple[Tensor, float]]) -> list[_Scored]:
        """Encode all steps together, and then score the steps of each recording."""
        steps = torch.cat([steps for steps, _ in batch])
        slabs = (slab.to(self._device) for slab in torch.split(steps, _SLAB))
        features = torch.cat([self._network.encode(slab) for slab in slabs])
        lengths = [len(steps) for steps, _ in batch]
        packed = pack_sequence(list(torch.split(features, lengths)), enforce_sorted=False)
        lstm_output, _ = pad_packed_sequence(self._memory(packed)[0], batch_first=True)
        scores = self._network.score(lstm_output).cpu()
        return [
            _Scored(row[:length].tolist(), seconds)
            for row, length, (_, seconds) in zip(scores, lengths, batch, strict=True)
        ]

    def postprocess(self, output: _Scored) -> dict[str, object]:
        """Return the parts that contain speech, in order, and the duration of the recording."""
        segments = [
            {
                "start_seconds": round(start, 3),
                "end_seconds": round(end, 3),
                "score": round(score, 4),
            }
            for start, end, score in spoken(output.scores, output.seconds, self._threshold)
        ]
        return {"speech": segments, "duration_seconds": round(output.seconds, 3)}


class _Network(nn.Module):
    """The network of Silero VAD. Its layers have the same names as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def encode(self, steps: Tensor) -> Tensor:
        """Return 128 features for each step. The samples have the shape (steps, 576)."""
        mirrored = nn.functional.pad(steps.unsqueeze(1), (0, _CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(mirrored).chunk(2, dim=1)
        found: Tensor = (real**2 + imaginary**2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            found = layer(found).relu()
        return found.squeeze(2)

    def as_sequence(self) -> nn.LSTM:
        """Return an LSTM layer for whole recordings, with the weights of `lstm_cell`."""
        layer = nn.LSTM(128, 128, device=self.lstm_cell.weight_ih.device)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layer.load_state_dict({f"{name}_l0": getattr(self.lstm_cell, name) for name in names})
        return layer.eval()

    def score(self, lstm_output: Tensor) -> Tensor:
        """Return the score of each step, from 0 to 1, as a tensor of shape (batch, steps)."""
        last: Tensor = self.final_conv(lstm_output.relu().transpose(1, 2))
        return last.squeeze(1).sigmoid()


def spoken(
    scores: list[float], seconds: float, threshold: float
) -> Iterator[tuple[float, float, float]]:
    """Yield start and end in seconds, and the mean score, of each part that contains speech."""
    reached = 0.0
    for start, end in _runs(scores, threshold):
        if end - start < _MIN_SPEECH_STEPS:
            continue
        begins = max(reached, start * _STEP_SECONDS - _MARGIN_SECONDS)
        reached = min(seconds, end * _STEP_SECONDS + _MARGIN_SECONDS)
        yield begins, reached, sum(scores[start:end]) / (end - start)


def _runs(scores: list[float], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the first step of each sequence of steps with speech, and the step that follows it."""
    start: int | None = None
    end = 0
    for step, score in enumerate(scores):
        if start is None:
            if score < threshold:
                continue
            start = step
        if score >= threshold - _HYSTERESIS:
            end = step + 1
        elif step - end >= _MIN_SILENCE_STEPS:
            yield start, end
            start = None
    if start is not None:
        yield start, end
