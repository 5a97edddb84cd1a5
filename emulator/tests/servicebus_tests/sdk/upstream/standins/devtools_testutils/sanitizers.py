"""Sanitizers of recorded tests. They do nothing, because the tests run live."""

from typing import Any


def add_general_regex_sanitizer(**_: Any) -> None:
    """Do nothing, because live tests are not recorded."""


def add_remove_header_sanitizer(**_: Any) -> None:
    """Do nothing, because live tests are not recorded."""


def add_oauth_response_sanitizer(**_: Any) -> None:
    """Do nothing, because live tests are not recorded."""
