"""The API key of whoever runs this process."""

import os
from typing import Final

KEY_VARIABLE: Final = "LOOSELY_API_KEY"


def api_key_of_environment() -> str | None:
    """Return the key that ``LOOSELY_API_KEY`` holds, ``None`` where it is unset or empty."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None
