"""Test that staging, batching and memory layout do not change the outputs of a torch network.

To stage an item means to copy it to the device before its batch runs.

The device is the CPU here; `./dev gpu` runs the same tests on a GPU.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from worker.errors import ModelUnfit
from worker.models.network import InPrecision, Network

pytestmark = pytest.mark.torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    )


def pictures(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 8, 8, generator=generator) for _ in range(count)]


def expected(items: list[Tensor]) -> Tensor:
    with torch.inference_mode():
        output: Tensor = small_network().eval()(torch.stack(items))
        return output


assert_close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3, check_stride=False)


def test_image_network_keeps_the_outputs(device: torch.device) -> None:
    network, items = Network(small_network(), device=device), pictures(5)
    outputs = network([network.stage(item) for item in items])
    assert outputs.device.type == "cpu"
    assert outputs.is_inference()
    assert_close(outputs, expected(items))


def test_batch_with_some_items_staged_keeps_the_outputs(device: torch.device) -> None:
    network, items = Network(small_network(), device=device), pictures(64)
    with ThreadPoolExecutor(4) as threads:
        staged = list(threads.map(network.stage, items))
    mixed = [item if number % 3 else staged[number] for number, item in enumerate(items)]
    assert_close(network(mixed), expected(items))


def test_batches_keep_the_order_of_the_items(device: torch.device) -> None:
    network, items = Network(small_network(), device=device), pictures(40)
    staged = [network.stage(item) for item in items]
    outputs = torch.cat([network(staged[at : at + 8]) for at in range(0, 40, 8)])
    assert_close(outputs, expected(items))


class Detector(nn.Module):
    """A network like torchvision's detectors, which maps a list of images to a list of dicts."""

    def forward(self, items: list[Tensor]) -> list[dict[str, Tensor | tuple[Tensor, str]]]:
        return [
            {"sum": item.sum(), "count": torch.tensor(item.numel()), "both": (item.mean(), "mean")}
            for item in items
        ]


def test_list_of_items_returns_nested_outputs(device: torch.device) -> None:
    network = Network(Detector(), device=device)
    first, second = network.each([torch.ones(3, 2, 2), torch.ones(3, 4, 5)])
    assert (float(first["sum"]), int(second["count"])) == (12.0, 60)
    assert first["sum"].device.type == second["both"][0].device.type == "cpu"
    assert second["both"][1] == "mean"


def test_vectors_pass_through_unchanged(device: torch.device) -> None:
    network = Network(nn.Identity(), device=device)
    assert network([torch.arange(3.0)] * 2).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_network_with_3d_convolutions_keeps_the_outputs(device: torch.device) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(3, 2, 2), nn.Flatten(), nn.Linear(2, 1))
    items = [torch.rand(3, 2, 2, 2) for _ in range(3)]
    wanted = module(torch.stack(items)).detach()
    found = Network(module, device=device)(items)
    assert_close(found, wanted)


def test_integers_stay_and_uint8_becomes_float32(device: torch.device) -> None:
    words = Network(nn.Embedding(10, 4), device=device)
    assert words([words.stage(torch.tensor([1, 2, 3]))] * 2).shape == (2, 3, 4)
    picture = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert Network(nn.Identity(), device=device)([picture]).dtype is torch.float32


def test_compiled_network_keeps_the_outputs(device: torch.device) -> None:
    network, items = Network(small_network(), device=device, compiler="eager"), pictures(3)
    assert_close(network(items), expected(items))


@pytest.mark.parametrize("gives_many", [False, True])
def test_half_precision_returns_float32(gives_many: bool) -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, item: Tensor) -> Tensor | dict[str, Tensor]:
            assert item.dtype is torch.bfloat16
            return {"0": self.layer(item)} if gives_many else self.layer(item)

    found = InPrecision(Backbone(), torch.bfloat16)(torch.ones(2, 4))
    assert (found["0"] if gives_many else found).dtype is torch.float32


def test_only_the_selected_part_is_converted(device: torch.device) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, items: Tensor) -> Tensor:
            found: Tensor = self.head(self.backbone(items))
            return found

    torch.manual_seed(0)
    module, items = Halves(), [torch.rand(4) for _ in range(3)]
    wanted = module(torch.stack(items)).detach()
    found = Network(module, precision="float16", part="backbone", device=device)(items)
    assert module.head.weight.dtype is torch.float32
    assert {each.dtype for each in module.backbone.parameters()} == {
        torch.float32 if device.type == "cpu" else torch.float16
    }
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_cpu_uses_float32_and_copies_nothing() -> None:
    network = Network(small_network(), precision="float16", device=torch.device("cpu"))
    item = torch.zeros(3, 8, 8)
    assert network.stage(item) is item
    assert network.dtype is torch.float32


def test_unknown_precision_is_unfit() -> None:
    with pytest.raises(ModelUnfit, match=r"options\.precision: expected one of float32, float16"):
        Network(small_network(), precision="float8")
