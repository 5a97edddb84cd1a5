"""What Schemathesis may not choose, since no schema can say it."""

from typing import Any

import schemathesis
from schemathesis.core import NOT_SET


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]
) -> None:
    query: Any = case.query
    if not isinstance(query, dict):
        return
    # On a busy machine a job may not be done within a second.
    if query.get("deadline_seconds") in range(1, 30):
        query["deadline_seconds"] = 30
    # It stands for the body.
    if case.body is not NOT_SET:
        query.pop("upload", None)
