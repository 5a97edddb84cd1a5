"""Sanitizers of recorded tests, which do nothing in live tests."""

from typing import Any


def add_general_regex_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_remove_header_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_oauth_response_sanitizer(**_: Any) -> None:
    """Hide nothing."""
