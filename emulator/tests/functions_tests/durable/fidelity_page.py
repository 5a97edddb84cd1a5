"""The page fidelity.md of the repository, with which two tests compare what they found."""

from pathlib import Path

import pytest

FIDELITY = Path(__file__).parents[4] / "docs/explanation/fidelity.md"

needs_fidelity_page = pytest.mark.skipif(
    not FIDELITY.is_file(),
    reason="fidelity.md belongs to the repository, not to the distribution of the emulator",
)
