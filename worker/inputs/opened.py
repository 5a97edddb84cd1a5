"""Open an input: find out how much memory it needs, before it is decoded.

An opened input is small or large. Small inputs are decoded quickly, in the thread that has opened
them. Large inputs are decoded by other threads, so that they do not delay small inputs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from typing import Any, Literal

from PIL import Image

from worker.errors import InvalidInput, PayloadUnusable, UnsupportedMediaType
from worker.inputs import audio, images, tensors, text
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import SMALL_BYTES

Accepts = Literal["audio", "bytes", "file", "image", "json", "tensor", "text"]
"""The kind of input that a model accepts:

    image   a PIL image in RGB, rotated upright
    audio   an `Audio`: mono samples as float32, and their sample rate
    text    a str
    json    the decoded JSON value
    tensor  a NumPy array, or a dictionary of arrays by name
    bytes   the payload unchanged
    file    the payload as a binary file, which is closed after `preprocess`
"""

Data = bytes | mmap
"""The bytes of an input. Large inputs are in a file, and are mapped into memory."""

Reserve = Callable[[int], object]
"""The type of a function that reserves a number of bytes. It may wait, and may raise an error."""


@dataclass(frozen=True, slots=True)
class InputKind:
    """What a model accepts as an input, and the settings for decoding the input.

    Attributes:
        accepts: What the model accepts, for example `image` or `audio`.
        max_pixels: Images with more pixels than this are refused; 0 for no limit.
        sample_rate: The number of samples per second of a recording; None to keep the file's rate.
    """

    accepts: Accepts
    max_pixels: int = 0
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True)
class OpenedInput:
    """An input that is not decoded yet.

    Attributes:
        is_small: Whether the input is decoded in less than about 0.2 s, with little memory.
        measure: Returns how many bytes `decode` reserves. Raises InvalidInput if the input cannot
            be decoded.
        decode: Reserves memory, decodes the input, and returns the value for the model. Raises
            InvalidInput if the input cannot be decoded.
    """

    is_small: bool
    measure: Callable[[], int]
    decode: Callable[[Reserve], Any]


@dataclass(frozen=True, slots=True)
class DecodedInputs:
    """The decoded inputs of a job: the first input, and the named inputs by name."""

    first: Any
    named: dict[str, Any]


def open_together(first: OpenedInput, named: Mapping[str, OpenedInput]) -> OpenedInput:
    """Return the inputs of one job as one opened input, which is decoded to a `DecodedInputs`.

    The memory for all inputs is reserved at once. If each input waited for its own memory, two jobs
    could wait for each other.
    """

    def measure() -> int:
        size_bytes = first.measure()
        for name, each in named.items():
            with naming_input(name):
                size_bytes += each.measure()
        return size_bytes

    def decode(reserve: Reserve) -> DecodedInputs:
        reserve(measure())
        decoded = DecodedInputs(first.decode(_is_reserved), {})
        for name, each in named.items():
            with naming_input(name):
                decoded.named[name] = each.decode(_is_reserved)
        return decoded

    are_small = all(each.is_small for each in (first, *named.values()))
    return OpenedInput(are_small and measure() <= SMALL_BYTES, measure, decode)


@contextlib.contextmanager
def naming_input(name: str | None) -> Iterator[None]:
    """Add the name of a named input to the text of an error that the `with` block raises.

    `name` is None for the first input, whose errors are not changed.
    """
    try:
        yield
    except (InvalidInput, UnsupportedMediaType, PayloadUnusable) as error:
        if name is None:
            raise
        raise type(error)(f"inputs.{name}: {error}") from None


def _is_reserved(size_bytes: int) -> None:
    """Do nothing, because the memory is already reserved."""


def open_input(
    kind: InputKind, data: Data, media_type: str, processes: DecoderProcesses | None = None
) -> OpenedInput:
    """Find out how much memory an input needs, and return an object that decodes it later.

    Args:
        kind: What the model accepts.
        data: The bytes of the input.
        media_type: The media type of the input.
        processes: The processes that decode large images; None to decode them in this process.

    Raises:
        InvalidInput: The header of the input is invalid, or the image is too large.
    """
    match kind.accepts:
        case "image":
            return _open_image(kind, data, media_type, processes)
        case "audio":
            recording = audio.open_recording(data, kind.sample_rate)
            return _opened(recording.memory_bytes, recording.decode)
        case "text":
            return _opened(text.TEXT_FACTOR * len(data), partial(_decode_text, data))
        case "json":
            return _opened(text.memory_bytes(data), partial(_parse_json, data))
        case "tensor":
            return _opened(
                tensors.memory_bytes(data, media_type), partial(_decode_tensors, data, media_type)
            )
    return _opened(len(data), partial(bytes, data))


def _opened(memory_bytes: int, decode: Callable[[], Any]) -> OpenedInput:
    def reserve_and_decode(reserve: Reserve) -> Any:
        reserve(memory_bytes)
        return decode()

    return OpenedInput(memory_bytes <= SMALL_BYTES, lambda: memory_bytes, reserve_and_decode)


def _open_image(
    kind: InputKind, data: Data, media_type: str, processes: DecoderProcesses | None
) -> OpenedInput:
    if processes is not None and not images.is_small_file(data):
        return _opened_for_process(kind, data, media_type, processes)
    opened = images.open_image(data, media_type, kind.max_pixels)
    if processes is not None and not opened.is_small:
        opened.picture.close()
        return _opened_for_process(kind, data, media_type, processes)
    return _opened(opened.memory_bytes, opened.decode)


def _opened_for_process(
    kind: InputKind, data: Data, media_type: str, processes: DecoderProcesses
) -> OpenedInput:
    def decode(reserve: Reserve) -> Image.Image:
        return processes.decode(data, media_type, kind.max_pixels, reserve)

    measure = partial(processes.measure, data, media_type, kind.max_pixels)
    return OpenedInput(is_small=False, measure=measure, decode=decode)


def _decode_text(data: Data) -> str:
    return text.decode(bytes(data))


def _parse_json(data: Data) -> Any:
    return text.parse_json(bytes(data))


def _decode_tensors(data: Data, media_type: str) -> Any:
    return tensors.decode(bytes(data), media_type)
