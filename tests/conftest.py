"""Configuration of all tests."""

import importlib.util
import re
from pathlib import Path

from hypothesis import HealthCheck, settings

# Busy machines are slow, and no test is a measurement.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_TORCH = re.compile(r"^(?:import|from) (?:numpy|torch|torchvision)\b", re.MULTILINE)
_HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip the tests that import torch if torch is not installed, as in `./dev newer`."""
    if _HAS_TORCH or collection_path.suffix != ".py":
        return None
    return bool(_TORCH.search(collection_path.read_text(encoding="utf-8"))) or None
