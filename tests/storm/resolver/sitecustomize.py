"""Make the host names of the domain SOAK_SILENT_DOMAIN hang in DNS, as if no DNS server answered.

Python runs this module at the start of each component of a soak, because the module's folder is in
PYTHONPATH. No query leaves this machine. All other names are resolved as usual.
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
