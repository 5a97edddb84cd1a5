"""Test large inputs: the memory that they reserve, and the processes that decode them."""

import gc
import json
import os
import re
import signal
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.unit.worker.pictures import MIB, blank_png, encode_picture, encode_wav
from worker.errors import InvalidInput, LockLost, WorkerFault
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import SMALL_BYTES, InputMemory, MemoryBudget
from worker.inputs.opened import InputKind, keep_waiting, open_input
from worker.inputs.tensors import decode as decode_tensors

MAX_PIXELS = 50_000_000


def jpeg_with_scans(count: int) -> bytes:
    """Return a progressive JPEG of 64 x 64 pixels that contains its last scan `count` times."""
    data = encode_picture(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def not_held() -> None:
    raise LockLost("the lock was lost")


@pytest.fixture
def processes() -> Iterator[DecoderProcesses]:
    started = DecoderProcesses()
    yield started
    started.close()


def test_input_waits_until_memory_is_released() -> None:
    budget = MemoryBudget(100)
    first = budget.reserve(60, not_held)
    waits, second = threading.Event(), threading.Event()

    def reserve() -> None:
        budget.reserve(60, waits.set)
        second.set()

    thread = threading.Thread(target=reserve)
    thread.start()
    assert waits.wait(10)
    assert not second.is_set()
    first.release()
    first.release()  # has no further effect
    thread.join(10)
    assert second.is_set()
    assert budget.used_bytes == 60


def test_more_than_the_whole_budget_is_refused() -> None:
    with pytest.raises(InvalidInput, match="would need 600 MiB of memory; this worker accepts at"):
        MemoryBudget(512 * MIB).reserve(600 * MIB, not_held)


def test_small_inputs_do_not_wait_for_large_ones() -> None:
    large = MemoryBudget(100 * MIB)
    memory = InputMemory(large)
    memory.reserve(100 * MIB, not_held)
    memory.reserve(SMALL_BYTES, not_held)
    with pytest.raises(LockLost):
        memory.reserve(SMALL_BYTES + 1, not_held)
    assert large.used_bytes == 100 * MIB


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_child_decodes_the_same_pixels_as_a_thread(processes: DecoderProcesses, kind: str) -> None:
    sideways = Image.effect_noise((500, 300), 80).convert("RGB")
    exif = sideways.getexif()
    exif[0x0112] = 6
    data = encode_picture(sideways, kind, exif=exif)
    media_type = f"image/{kind.lower()}"
    opened = open_input(InputKind("image", MAX_PIXELS), data, media_type)
    expected = opened.decode(keep_waiting)
    found = processes.decode_image(data, media_type, MAX_PIXELS, keep_waiting)
    assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())


MODES = {
    "rgba.png": ("PNG", "RGBA", {}),
    "palette.png": ("PNG", "P", {}),
    "baseline.jpg": ("JPEG", "RGB", {}),
    "progressive.jpg": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "cmyk.jpg": ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
    "lossy.webp": ("WEBP", "RGB", {"method": 0}),
    "alpha.webp": ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("name", MODES)
def test_image_needs_at_most_the_reserved_memory(processes: DecoderProcesses, name: str) -> None:
    kind, mode, options = MODES[name]
    side = 2000
    blocks = Image.effect_noise((side // 8, side // 8), 60).resize(
        (side, side), Image.Resampling.NEAREST
    )
    data = encode_picture(blocks.convert(mode), kind, **options)
    image = (data, f"image/{kind.lower()}", MAX_PIXELS, keep_waiting)
    reserved = processes.measure_image(*image)
    before = peak_bytes(processes.child_pids[0])
    processes.decode_image(*image)
    # The child's file with the decoded pixels is not part of its own memory.
    shared = side * side * 3
    assert peak_bytes(processes.child_pids[0]) - before + shared < reserved


def peak_bytes(pid: int) -> int:
    """Return the peak of the resident memory of a process, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_two_million_pixels_go_to_a_child(processes: DecoderProcesses) -> None:
    kind = InputKind("image", MAX_PIXELS)
    small, large = blank_png(1000, 1000), blank_png(2000, 1500)
    assert open_input(kind, small, "image/png", processes).is_small
    opened = open_input(kind, large, "image/png", processes)
    assert not opened.is_small
    assert opened.decode(keep_waiting).size == (2000, 1500)


def test_file_of_one_mebibyte_is_opened_by_a_child(processes: DecoderProcesses) -> None:
    data = b"no picture" * (MIB // 5)
    opened = open_input(InputKind("image", MAX_PIXELS), data, "image/png", processes)
    with pytest.raises(InvalidInput, match="not an image of type image/png"):
        opened.measure(keep_waiting)


def decode_despite(
    number: signal.Signals, child_count: int, limit_seconds: float = 1.5
) -> Image.Image:
    """Decode an image while this signal hits the first `child_count` children that are started."""
    processes = DecoderProcesses(limit_seconds, process_count=1)
    is_done = threading.Event()

    def hit_children() -> None:
        hit: set[int] = set()
        while not is_done.wait(0.0002):
            for pid in (set(processes.child_pids) - hit) if len(hit) < child_count else ():
                os.kill(pid, number)
                hit.add(pid)

    with ThreadPoolExecutor(1) as threads:
        hitting = threads.submit(hit_children)
        try:
            return processes.decode_image(
                blank_png(200, 200), "image/png", MAX_PIXELS, keep_waiting
            )
        finally:
            is_done.set()
            hitting.result()
            processes.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_input_is_decoded_again_if_the_child_fails(number: signal.Signals) -> None:
    assert decode_despite(number, 1).size == (200, 200)
    with pytest.raises(WorkerFault, match="for the second time"):
        decode_despite(number, 2)


def test_too_much_processor_time_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"could not be decoded within 0\.5 s of processor time"):
        decode_despite(signal.SIGXCPU, 1, limit_seconds=0.5)


def test_damaged_exif_writes_nothing_to_the_log(
    processes: DecoderProcesses, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = b"".join(struct.pack("<HHII", tag, 2, 99_999, 99_999) for tag in range(5_000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5_000) + entries
    data = encode_picture(Image.new("RGB", (10, 10)), "JPEG", exif=exif)
    processes.decode_image(data, "image/jpeg", MAX_PIXELS, keep_waiting)
    processes.close()
    assert capfd.readouterr().err == ""


def test_jpeg_with_over_a_hundred_scans_is_refused(processes: DecoderProcesses) -> None:
    data = jpeg_with_scans(20_000)
    with pytest.raises(InvalidInput, match="more than 100 scans"):
        open_input(InputKind("image", MAX_PIXELS), data[:MIB], "image/jpeg")
    with pytest.raises(InvalidInput, match="more than 100 scans"):
        processes.decode_image(data, "image/jpeg", MAX_PIXELS, keep_waiting)


TOO_MUCH = {
    "arrays": (b"[" + b"[]," * 300_000 + b"0]", "too many arrays and objects; at most 300000"),
    "values": (b"[" + b"1," * 5_000_001 + b"1]", "too many values; at most 5000000"),
    "members": (b"[" + b'{"":1},' * 200_000 + b'{"a":1}]', None),
    "depth": (b"[" * 900 + b"]" * 900, "nested deeper than 256 levels"),
    "depth of text": (b"[" * 256 + b"]" * 256, None),
    # Each quote could start a text that has no end.
    "quotes": (b"[" * 300_001 + b'"' + b'\\"' * 700_000, "too many arrays and objects"),
    "backslash": (b'"' + b'\\"[' * 400_000 + b"\\", "not valid JSON"),
    "brackets in texts": (b'["' + b"[{" * 600_000 + b'\\"[", 1]', None),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", TOO_MUCH)
def test_json_beyond_a_limit_is_refused_in_linear_time(name: str) -> None:
    data, problem = TOO_MUCH[name]
    opened = open_input(InputKind("json"), data, "application/json")
    with pytest.raises(InvalidInput, match=problem) if problem else nullcontext():
        opened.decode(keep_waiting)


def test_text_of_more_than_32_mib_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 33554432 bytes"):
        open_input(InputKind("text"), b"a" * (32 * MIB + 1), "text/plain").decode(keep_waiting)


VALUES: dict[str, Any] = {
    "scalar": 0.1,
    "surrogate": ["\ud800", "\u2028\n", "é"],
    "list": [*range(40_000), [], {}, None, True, 1e300],
    "object": {f"k{number}": [number] for number in range(9_000)},
    "nested": {"a": [{"b": [list(range(6_000)), {"c": list(range(6_000))}]}, []], "d": 1},
    "texts": ["x" * 600_000, {"y" * 600_000: "z" * 600_000}, "", {"": ""}],
}


@pytest.mark.parametrize("name", VALUES)
def test_child_parses_the_same_json_as_a_thread(processes: DecoderProcesses, name: str) -> None:
    data = json.dumps(VALUES[name]).encode()
    found = processes.parse_json(data, keep_waiting)
    assert found == VALUES[name]
    assert json.dumps(found) == json.dumps(VALUES[name])  # also the order of the members


@pytest.mark.parametrize("text", [b"[1,", b'"\xff"', b"[NaN]", b""])
def test_child_refuses_invalid_json(processes: DecoderProcesses, text: bytes) -> None:
    with pytest.raises(InvalidInput):
        processes.parse_json(text, keep_waiting)
    assert processes.parse_json(b"[1]", keep_waiting) == [1]
    assert len(processes.child_pids) == 1


def test_child_decodes_the_same_tensors_as_a_thread(processes: DecoderProcesses) -> None:
    np = pytest.importorskip("numpy")
    for value in ([[1, 2.5], [3, 4]], 7, {"a": [1, 2], "b": [[]], "": [[[5]]]}):
        data = json.dumps(value).encode()
        expected = decode_tensors(data, "application/json")
        found = processes.decode_tensors(data, keep_waiting)
        np.testing.assert_equal(found, expected)
        assert found["a"].flags.writeable if isinstance(value, dict) else found.flags.writeable


# Two megabytes of each kind. A thread that parsed ten stopped all models of a worker for a second.
TWO_MEGABYTES = {
    "numbers": b"[" + b"1," * 1_000_000 + b"1]",
    "pairs": b"[" + b"[1.25,2.5]," * 180_000 + b"0]",
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}",
    "texts": b"[" + b'"ab",' * 400_000 + b'""]',
}


@pytest.mark.parametrize("name", TWO_MEGABYTES)
def test_no_step_on_json_holds_the_lock_for_long(
    processes: DecoderProcesses, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare processor times, because other processes may slow this one down."""
    opened = open_input(InputKind("json"), TWO_MEGABYTES[name], "application/json", processes)
    assert not opened.is_small
    steps: list[float] = []

    def pause(_seconds: float) -> None:
        steps.append(time.thread_time())

    # Only for this module: threads that earlier tests left behind sleep, too.
    monkeypatch.setattr("worker.inputs.text.time", SimpleNamespace(sleep=pause))
    gc.collect()
    gc.freeze()  # as a worker does at its start
    assert len(opened.decode(keep_waiting)) > 100_000
    assert len(steps) > 20
    # A thread that parses the whole text holds the lock all the time.
    begun = time.thread_time()
    json.loads(TWO_MEGABYTES[name])
    parse_seconds = time.thread_time() - begun
    assert max(after - before for before, after in pairwise(steps)) < parse_seconds / 3


JSON_TEXTS = {
    "arrays": b"[" + b"[]," * 200_000 + b"0]",
    "objects": b"[" + b"{}," * 200_000 + b"0]",
    "numbers": b"[" + b"1.5," * 200_000 + b"0]",
    "texts": b"[" + b",".join(b'"%d"' % number for number in range(200_000)) + b"]",
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}",
    "small objects": b"[" + b'{"a":1,"b":2},' * 100_000 + b"0]",
}


@pytest.mark.parametrize("name", JSON_TEXTS)
def test_json_needs_at_most_the_reserved_memory(name: str) -> None:
    opened = open_input(InputKind("json"), JSON_TEXTS[name], "application/json")
    tracemalloc.start()
    opened.decode(keep_waiting)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < opened.measure(keep_waiting)


def test_long_text_in_a_tensor_allocates_little() -> None:
    """NumPy would allocate the length of the longest text for each of 8,001 texts: 1.6 GB."""
    pytest.importorskip("numpy")
    data = b'["' + b"a" * 50_000 + b'"' + b',""' * 8_000 + b"]"
    opened = open_input(InputKind("tensor"), data, "application/json")
    with pytest.raises(InvalidInput, match="nested lists of equal length"):
        opened.decode(keep_waiting)
    assert opened.measure(keep_waiting) < 2 * MIB


def test_recording_of_ten_seconds_is_small() -> None:
    pytest.importorskip("numpy")
    assert open_input(InputKind("audio"), encode_wav(bytes(320_000)), "audio/wav").is_small
