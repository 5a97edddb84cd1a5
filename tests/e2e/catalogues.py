"""Catalogues of models for the tests of whole systems."""

ENTRY = """
[{name}]
description = "A model of a test."
implementation = "{implementation}"
media_types = ["text/plain"]
max_batch_size = 1
max_wait_ms = 0
{more}
"""
COUNTING = ENTRY.format(
    name="counting", implementation="tests.e2e.counting_model", more="deadline_seconds = 120"
)
LARGE_ENTRY = """
[{name}]
description = "For tests."
implementation = "{implementation}"
media_types = ["application/octet-stream", "text/plain"]
max_input_bytes = 1_000_000
max_upload_bytes = {max_upload_bytes}
max_batch_size = 2
max_wait_ms = 0
"""
LARGE_MODELS = LARGE_ENTRY.format(
    name="noop", implementation="worker.models.noop", max_upload_bytes=500_000_000
) + LARGE_ENTRY.format(
    name="big", implementation="tests.e2e.big_result", max_upload_bytes=1_000_000
)


def format_catalogue(models: dict[str, tuple[str, str]]) -> str:
    return "".join(
        ENTRY.format(name=name, implementation=implementation, more=more)
        for name, (implementation, more) in models.items()
    )
