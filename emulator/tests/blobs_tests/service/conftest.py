"""A fixture that runs a Blob service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import RunningBlobService, open_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningBlobService]:
    async with open_service(tmp_path / "data") as opened:
        yield opened
