"""Make DNS look-ups of some host names hang, as if no DNS server answered.

The environment variable SOAK_SILENT_DOMAIN contains a domain. Look-ups of names in this domain
hang. All other names are resolved as usual. Python runs this module at the start of each component
of a soak, because the module's folder is in PYTHONPATH.
"""

import os
import socket
import time
from typing import Any

_DOMAIN = os.environ.get("SOAK_SILENT_DOMAIN", "")
_HANG_SECONDS = 30.0
_resolve = socket.getaddrinfo


def _resolve_or_hang(host: Any, *arguments: Any, **options: Any) -> Any:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name.rstrip(".").endswith(_DOMAIN):
        time.sleep(_HANG_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
    return _resolve(host, *arguments, **options)


if _DOMAIN:
    socket.getaddrinfo = _resolve_or_hang
