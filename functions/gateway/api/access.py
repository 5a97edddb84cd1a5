"""Which routes are open to anybody, and what a key must allow for the others.

A route that is not named here needs a key: one that is forgotten is closed, not open.
"""

import re
from typing import Final

from gateway.access.callers import Scope

# Workers come to their two routes with a token of the job; probes and readers have no key.
_OPEN: Final = re.compile(
    r"/"
    r"|/openapi\.json"
    r"|/docs(?:/[^/]+)?"
    r"|/schemas/[^/]+"
    r"|/v[12]/health/[^/]+"
    r"|/v1/jobs/[^/]+/(?:reply|progress)"
)
_ANY_KEY: Final = re.compile(r"/v1/models(?:/[^/]+)?|/v2(?:/models/[^/]+(?:/.+)?)?")
_ADMIN: Final = re.compile(r"/v1/(?:admin|dead-letters)(?:/.*)?", re.DOTALL)


def is_open(method: str, path: str) -> bool:
    """Whether the route needs no key. OPTIONS tells only what there is for everybody."""
    return method == "OPTIONS" or _OPEN.fullmatch(path) is not None


def wanted_scope(method: str, path: str) -> Scope | None:
    """The scope that a key needs here; None where any key will do."""
    if _ADMIN.fullmatch(path):
        return Scope.ADMIN
    if method != "GET":
        return Scope.JOBS_WRITE
    return None if _ANY_KEY.fullmatch(path) else Scope.JOBS_READ
