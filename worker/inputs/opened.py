"""Open an input: find out how much memory it needs, before it is decoded.

An opened input is small or large. Small inputs are decoded quickly, in the thread that has opened
them. Large inputs are decoded by other threads, so that they do not delay small inputs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from contract import media
from worker.errors import InvalidInput, PayloadUnusable, UnsupportedMediaType
from worker.inputs import audio, images, tensors, text
from worker.inputs.decoder_process import Check, Data, DecoderProcesses
from worker.inputs.memory import SMALL_BYTES
from worker.inputs.payloads import pieces

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


@dataclass(frozen=True, slots=True)
class InputKind:
    """What a model accepts as an input, and the settings for decoding the input.

    Images with more than `max_pixels` are refused, unless it is 0. Recordings are resampled to
    `sample_rate` samples per second, unless it is None.
    """

    accepts: Accepts
    max_pixels: int = 0
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True)
class OpenedInput:
    """An input that is not decoded yet.

    A small input is decoded in less than about 0.2 s, with little memory. `measure` returns how
    many bytes of memory the caller must reserve before `decode`. Both raise InvalidInput if the
    input cannot be decoded. They may wait for a child process, and then call their argument, which
    raises an error if the job must stop waiting.
    """

    is_small: bool
    measure: Callable[[Check], int]
    decode: Callable[[Check], Any]


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

    def measure(check: Check) -> int:
        size_bytes = first.measure(check)
        for name, each in named.items():
            with naming_input(name):
                size_bytes += each.measure(check)
        return size_bytes

    def decode(check: Check) -> DecodedInputs:
        decoded = DecodedInputs(first.decode(check), {})
        for name, each in named.items():
            with naming_input(name):
                decoded.named[name] = each.decode(check)
        return decoded

    are_small = all(each.is_small for each in (first, *named.values()))
    return OpenedInput(are_small and measure(keep_waiting) <= SMALL_BYTES, measure, decode)


def keep_waiting() -> None:
    """Do nothing. This is the `Check` of an input that does not belong to a job."""


@contextlib.contextmanager
def naming_input(name: str | None) -> Iterator[None]:
    """Add the name of a named input, if it is one, to the text of an error in the block."""
    try:
        yield
    except (InvalidInput, UnsupportedMediaType, PayloadUnusable) as error:
        if name is None:
            raise
        raise type(error)(f"inputs.{name}: {error}") from None


def open_input(
    kind: InputKind, data: Data, media_type: str, processes: DecoderProcesses | None = None
) -> OpenedInput:
    """Find out how much memory an input needs, and return an object that decodes it later.

    Without `processes`, large images and large JSON are decoded in this process. Raises
    InvalidInput if the header of the input is invalid, or the image is too large.
    """
    match kind.accepts:
        case "image":
            return _open_image(kind, data, media_type, processes)
        case "audio":
            recording = audio.open_recording(data, kind.sample_rate)
            return _opened(recording.memory_bytes, recording.decode)
        case "text":
            return _opened(text.TEXT_FACTOR * len(data), partial(text.decode, data))
        case "json":
            parse = partial(processes.parse_json, data) if processes else None
            return _open_json(text.memory_bytes(data), partial(text.parse_json, data), parse)
        case "tensor":
            is_json = media_type == media.JSON
            parse = partial(processes.decode_tensors, data) if processes and is_json else None
            memory_bytes = tensors.memory_bytes(data, media_type)
            return _open_json(memory_bytes, partial(tensors.decode, data, media_type), parse)
    return _open_bytes(data)


def _opened(memory_bytes: int, decode: Callable[[], Any]) -> OpenedInput:
    return OpenedInput(
        memory_bytes <= SMALL_BYTES, lambda _check: memory_bytes, lambda _check: decode()
    )


def _open_bytes(data: Data) -> OpenedInput:
    if isinstance(data, bytes):
        return _opened(len(data), lambda: data)
    # `join` lets other threads run while it copies.
    return _opened(2 * len(data), lambda: b"".join(pieces(data)))


def _open_json(
    memory_bytes: int, decode: Callable[[], Any], decode_in_child: Callable[[Check], Any] | None
) -> OpenedInput:
    if decode_in_child is None or memory_bytes <= text.SMALL_JSON_BYTES:
        return _opened(memory_bytes, decode)
    # The child and this process each hold the decoded value.
    return OpenedInput(
        is_small=False, measure=lambda _check: 2 * memory_bytes, decode=decode_in_child
    )


def _open_image(
    kind: InputKind, data: Data, media_type: str, processes: DecoderProcesses | None
) -> OpenedInput:
    if processes is None or len(data) <= images.SMALL_FILE_BYTES:
        opened = images.open_image(data, media_type, kind.max_pixels)
        if processes is None or opened.is_small:
            return _opened(opened.memory_bytes, opened.decode)
        opened.picture.close()
    return OpenedInput(
        is_small=False,
        measure=partial(processes.measure_image, data, media_type, kind.max_pixels),
        decode=partial(processes.decode_image, data, media_type, kind.max_pixels),
    )
