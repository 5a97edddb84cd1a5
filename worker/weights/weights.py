"""Load a model's weights as tensors, without executing any code in the file."""

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from worker.errors import WeightsDamaged, WeightsUnfit, WeightsUnsafe

if TYPE_CHECKING:
    from torch import Tensor, nn

    Network = TypeVar("Network", bound=nn.Module)

# A safetensors file begins with the length of its header, which is a JSON object.
_HEADER: Final = struct.Struct("<Q")
_MAX_HEADER_BYTES: Final = 100 * 1024 * 1024
_SHOWN_CHARACTERS: Final = 500
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]{1,200})")
# The errors that torch's readers raise on truncated files and on files of other formats.
_READER_ERRORS: Final = (
    *(RuntimeError, ValueError, EOFError, LookupError, OSError, AttributeError, TypeError),
    *(AssertionError, ArithmeticError, MemoryError, struct.error),
)


@dataclass(frozen=True, slots=True)
class Weights:
    """A local file with a model's weights, and its SHA-256 digest, which is empty if unknown.

    The worker checks the digest and passes this object to the constructor of the model's class:

        def __init__(self, weights: Weights) -> None:
            self.network = weights.load_into(Network())
    """

    path: Path
    sha256: str = ""

    def state_dict(self) -> "dict[str, Tensor]":
        """Return the tensors of a safetensors file or of a `torch.save`d state dict, by name.

        No code in it is executed. Raises WeightsUnsafe, WeightsDamaged or WeightsUnfit.
        """
        with self.path.open("rb") as file:
            start = file.read(_HEADER.size + 1)
        is_safetensors = (
            start[_HEADER.size :] == b"{" and _HEADER.unpack_from(start)[0] <= _MAX_HEADER_BYTES
        )
        return _checked(_from_safetensors(self.path) if is_safetensors else _from_torch(self.path))

    def load_into(
        self, network: "Network", state: "Mapping[str, Tensor] | None" = None
    ) -> "Network":
        """Load the weights into a network, and return the network.

        `state` is the result of `state_dict` if the caller has already read the file. Raises
        WeightsUnfit if the names or shapes do not fit the network.
        """
        try:
            network.load_state_dict(state or self.state_dict(), strict=True)
        except RuntimeError as error:
            # The text has one line for each name or shape that does not fit.
            text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
            raise WeightsUnfit(f"the weights do not fit the network: {text}") from None
        return network


def _from_safetensors(path: Path) -> object:
    from safetensors import SafetensorError  # noqa: PLC0415  only if a model has such weights
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsDamaged(f"the safetensors file cannot be read: {_line(error)}") from None


def _from_torch(path: Path) -> object:
    import torch  # noqa: PLC0415  a worker without such models needs no torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text explains how to execute the file anyway.
        named = _GLOBAL.search(str(error))
        what = f" The pickle names {named[1]}." if named else ""
        raise WeightsUnsafe(
            f"the weights are a pickle that contains more than tensors; its code was not "
            f"executed.{what}"
        ) from None
    except _READER_ERRORS as error:
        raise WeightsDamaged(f"the weights cannot be read: {_line(error)}") from None


def _checked(found: object) -> "dict[str, Tensor]":
    import torch  # noqa: PLC0415  a worker without such models needs no torch

    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise WeightsUnfit(
            "the weights are not a state dict: expected a mapping from names to tensors"
        )
    return dict(found)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN_CHARACTERS] if lines else type(error).__name__
