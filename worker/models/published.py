"""What torchvision publishes beside its networks: how to build them, their transforms and labels.

Nothing is downloaded: the weights themselves are the catalogue entry's.
"""

import difflib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import nn
from torchvision import models

from worker.errors import ModelUnfit

# The weights' files are named by how their digest begins.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def build(kind: ModuleType, architecture: str, **options: Any) -> nn.Module:
    """A network of one kind (`models`, `models.detection` …) without weights; ModelUnfit."""
    names = models.list_models(module=kind)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, n=3) or names
        raise ModelUnfit(
            f"options.architecture: {architecture!r} is none of {kind.__name__}; "
            f"there are {', '.join(near)}"
        )
    network: nn.Module = models.get_model(architecture, weights=None, **options)
    return network


def recipe(architecture: str, sha256: str) -> Any:
    """The entry of torchvision's that these weights were published as, or else its default one.

    `transforms()` of it is how inputs are prepared, `meta["categories"]` are its labels.
    """
    entries = models.get_model_weights(architecture)
    for entry in entries:
        found = _DIGEST.search(entry.url)
        if found and sha256.startswith(found[1]):
            return entry
    return entries.DEFAULT


def names(labels: str, entry: Any) -> Sequence[str]:
    """The labels by their numbers: those of the option, by commas, or else those of the entry."""
    given = [label.strip() for label in labels.split(",") if label.strip()]
    found: Sequence[str] = given or entry.meta["categories"]
    return found
