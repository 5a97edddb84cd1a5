"""Write catalogues of models for the tests of whole systems."""

from pathlib import Path

ENTRY = """
[{name}]
description = "A model of a test."
implementation = "{implementation}"
media_types = ["text/plain"]
max_batch_size = 1
max_wait_ms = 0
{more}
"""
LARGE_ENTRY = """
[{name}]
task = "test"
description = "For tests."
implementation = "{implementation}"
queue = "{name}"
media_types = ["application/octet-stream", "text/plain"]
max_input_bytes = 1_000_000
max_upload_bytes = {max_upload_bytes}
deadline_seconds = 60
max_deadline_seconds = 60
max_batch_size = 2
max_wait_ms = 0
lock_seconds = 10
max_delivery_count = 3
"""


def write_catalogue(path: Path, models: dict[str, tuple[str, str]]) -> Path:
    """Write the implementation and further lines of each model."""
    path.write_text(
        "".join(
            ENTRY.format(name=name, implementation=implementation, more=more)
            for name, (implementation, more) in models.items()
        )
    )
    return path


def write_large_models(path: Path) -> Path:
    """Write a model with large uploads, `noop`, and one with a large result, `big`."""
    noop, big = "worker.models.noop", "tests.e2e.big_result"
    path.write_text(
        LARGE_ENTRY.format(name="noop", implementation=noop, max_upload_bytes=500_000_000)
        + LARGE_ENTRY.format(name="big", implementation=big, max_upload_bytes=1_000_000)
    )
    return path
