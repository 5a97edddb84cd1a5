"""Build networks of torchvision, with the transforms and labels of its published weights.

Nothing is downloaded: the weights come from the catalogue entry.
"""

import difflib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import nn
from torchvision import models

from worker.errors import ModelUnfit

# The names of the weights' files contain the start of their digest.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def build(kind: ModuleType, architecture: str, **options: Any) -> nn.Module:
    """Return a network without weights.

    Args:
        kind: A module of torchvision, for example `models.detection`.
        architecture: The network's name.
        options: Arguments for the network's constructor.

    Raises:
        ModelUnfit: The module has no network of this name.
    """
    names = models.list_models(module=kind)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, n=3) or names
        raise ModelUnfit(
            f"options.architecture: {architecture!r} is not in {kind.__name__}; "
            f"similar: {', '.join(near)}"
        )
    network: nn.Module = models.get_model(architecture, weights=None, **options)
    return network


def recipe(architecture: str, sha256: str) -> Any:
    """Return torchvision's entry for these published weights, or its default entry.

    Its `transforms()` prepare the inputs, and its `meta["categories"]` are the labels.
    """
    entries = models.get_model_weights(architecture)
    for entry in entries:
        found = _DIGEST.search(entry.url)
        if found and sha256.startswith(found[1]):
            return entry
    return entries.DEFAULT


def names(labels: str, entry: Any) -> Sequence[str]:
    """Return the labels by number: from the comma-separated option, or else from the entry."""
    given = [label.strip() for label in labels.split(",") if label.strip()]
    found: Sequence[str] = given or entry.meta["categories"]
    return found
