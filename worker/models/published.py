"""Build networks of torchvision, and find the transforms and labels of published weights."""

import difflib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import nn
from torchvision import models

from worker.errors import ModelUnfit

# The name of a file with published weights contains the first digits of the file's digest.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def build(kind: ModuleType, architecture: str, **options: Any) -> nn.Module:
    """Build a network of a module of torchvision without weights, or raise ModelUnfit."""
    names = models.list_models(module=kind)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, n=3) or names
        raise ModelUnfit(
            f"options.architecture: {architecture!r} is not a model of {kind.__name__}; "
            f"choose for example {' or '.join(near)}"
        )
    network: nn.Module = models.get_model(architecture, weights=None, **options)
    return network


def find_weights_entry(architecture: str, sha256: str) -> Any:
    """Return the entry of the published weights with this digest, or of the default weights."""
    entries = models.get_model_weights(architecture)
    for entry in entries:
        found = _DIGEST.search(entry.url)
        if found and sha256.startswith(found[1]):
            return entry
    return entries.DEFAULT


def names(labels: str, entry: Any) -> Sequence[str]:
    """Return the labels of the classes: those given, separated by commas, or the published ones."""
    given = [label.strip() for label in labels.split(",") if label.strip()]
    found: Sequence[str] = given or entry.meta["categories"]
    return found
