"""Sanitizers of recorded tests. They do nothing, because the tests run live."""

from typing import Any


def add_general_regex_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_remove_header_sanitizer(**_: Any) -> None:
    """Hide nothing."""


def add_oauth_response_sanitizer(**_: Any) -> None:
    """Hide nothing."""
