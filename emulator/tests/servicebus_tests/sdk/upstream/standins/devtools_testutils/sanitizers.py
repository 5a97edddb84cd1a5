"""What would hide secrets in recordings, of which there are none."""

from typing import Any


def add_general_regex_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_remove_header_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_oauth_response_sanitizer(**_: Any) -> None:
    """Hide nothing."""
