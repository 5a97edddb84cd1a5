"""The version of Loosely, the default settings of the client, and its API key."""

import os
from typing import Final

__version__: Final = "0.1.0"
#: The URL of the gateway that `loosely up` starts.
DEFAULT_URL: Final = "http://127.0.0.1:7071"
API_KEY_VARIABLE: Final = "LOOSELY_API_KEY"
#: The longest wait, in seconds, that the gateway accepts in `Prefer: wait=N`.
MAX_WAIT_SECONDS: Final = 200


def read_api_key() -> str | None:
    """Return the environment variable ``LOOSELY_API_KEY``, or ``None`` if it is unset or blank."""
    return os.environ.get(API_KEY_VARIABLE, "").strip() or None
