"""No network at all: the size and digest of what was sent, for tests and benchmarks."""

import hashlib
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """Answers with `size_bytes` and `sha256` of the payload."""

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> dict[str, object]:
        """The digest is the CPU's share of the work."""
        return {"size_bytes": len(item), "sha256": hashlib.sha256(item).hexdigest()}

    def __call__(self, batch: list[dict[str, object]]) -> list[dict[str, object]]:
        """Nothing is left to do."""
        return batch
