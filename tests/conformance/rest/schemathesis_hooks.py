"""Hooks that change or skip requests for which the schema does not predict the right response."""

import re
import zlib
from typing import Any, Final
from urllib.parse import unquote

import schemathesis
from schemathesis.core import NOT_SET

_SHORTEST_SECONDS: Final = 30
_KEY: Final = re.compile('"?([0-9A-Za-z-]{1,200})"?')
_SHORT: Final = frozenset(map(str, range(1, _SHORTEST_SECONDS)))


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Return whether to send a request.

    A text/plain body must be a string: Schemathesis would send a body such as null as the text
    "null", which is valid. The Functions host itself refuses a header that is not ASCII. A schema
    cannot say that each character of a tenant's name must be printable.
    """
    tenant = (case.path_parameters or {}).get("tenant", "")
    return (
        (case.media_type != "text/plain" or isinstance(case.body, (str, bytes)))
        and all(str(value).isascii() for value in case.headers.values())
        and unquote(str(tenant)).isprintable()
    )


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]
) -> None:
    # The tenant of a gateway without API keys has an empty name in responses, and `~` in paths.
    if case.path_parameters.get("tenant") == "":
        case.path_parameters["tenant"] = "~"
    query: Any = case.query
    if isinstance(query, dict):
        _make_acceptable(query)
        # `upload` names an upload that replaces the body.
        if case.body is not NOT_SET:
            query.pop("upload", None)
    # Change JSON bodies only: a form contains file objects that must not be copied.
    if isinstance(case.body, dict) and case.media_type == "application/json":
        case.body = dict(case.body)
        _make_acceptable(case.body)
    # Different requests with the same key would be refused, so make the key depend on the request.
    key = case.headers.get("Idempotency-Key")
    if isinstance(key, str) and (plain := _KEY.fullmatch(key)):
        said = zlib.crc32(repr((case.method, case.path, query, case.body)).encode())
        case.headers["Idempotency-Key"] = f'"{plain[1]}-{said}"'


def _make_acceptable(options: dict[str, Any]) -> None:
    """Replace or remove options that are valid but that cannot succeed in the tested system.

    A deadline of less than 30 seconds may pass before the job ends, so it is replaced. A webhook
    URL is removed, because its host does not exist and the gateway refuses it. Options that the
    OpenAPI document forbids stay unchanged.
    """
    seconds = options.get("deadline_seconds")
    # On a busy machine a job may take longer than a second. In a query numbers are strings.
    if type(seconds) is int and 1 <= seconds < _SHORTEST_SECONDS:
        options["deadline_seconds"] = _SHORTEST_SECONDS
    elif isinstance(seconds, str) and seconds in _SHORT:
        options["deadline_seconds"] = str(_SHORTEST_SECONDS)
    # The generated host does not exist, and this gateway sends no webhooks.
    if _is_address(options.get("webhook_url")):
        del options["webhook_url"]
    webhook = options.get("webhook")
    if isinstance(webhook, dict) and set(webhook) == {"url"} and _is_address(webhook["url"]):
        del options["webhook"]


def _is_address(value: object) -> bool:
    return isinstance(value, str) and value.startswith("https://") and len(value) < 100
