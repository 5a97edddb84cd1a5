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


def test_type_hints_of_other_arguments_need_not_exist_at_run_time() -> None:
    assert read_arguments(ChecksPicture()) == {"top": {"type": "integer", "default": 5}}
    assert read_input_arguments(ChecksPicture()) == {}


@pytest.mark.parametrize("read", [read_arguments, read_input_arguments])
def test_an_argument_whose_type_does_not_exist_at_run_time_is_refused(
    read: Callable[[object], object],
) -> None:
    with pytest.raises(ModelUnfit, match=r"amount contains the name Decimal.*TYPE_CHECKING"):
        read(ChecksParameter())
