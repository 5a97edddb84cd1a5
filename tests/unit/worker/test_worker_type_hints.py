"""Test how the type hints of a model's arguments are read if some exist only for type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from worker.errors import ModelUnfit
from worker.inference.declarations import read_arguments, read_input_arguments

if TYPE_CHECKING:
    from decimal import Decimal

    from PIL.Image import Image


class ChecksPicture:
    def __call__(self, image: Image, *, top: int = 5) -> dict[str, Decimal]:
        raise NotImplementedError


class ChecksParameter:
    def __call__(self, image: bytes, *, amount: Decimal) -> None:
        raise NotImplementedError


def test_hints_of_other_arguments_need_not_exist() -> None:
    assert read_arguments(ChecksPicture()) == {"top": {"type": "integer", "default": 5}}
    assert read_input_arguments(ChecksPicture()) == {}


@pytest.mark.parametrize("read", [read_arguments, read_input_arguments])
def test_hint_that_does_not_exist_is_unfit(read: Callable[[object], object]) -> None:
    with pytest.raises(ModelUnfit, match=r"amount contains the name Decimal.*TYPE_CHECKING"):
        read(ChecksParameter())
