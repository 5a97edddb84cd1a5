"""The environment that all parts share."""

import os
from collections.abc import Mapping
from pathlib import Path


def users_environment() -> dict[str, str]:
    """Return the environment that ``loosely`` was called in."""
    return dict(os.environ)


def shared_environment(root: Path, user: Mapping[str, str]) -> dict[str, str]:
    """Return what every part gets: the user's own environment, able to import the parts.

    So ``WORKER_*`` and ``TORCH_THREADS`` reach the worker as the user set them; what ``up``
    itself decides is laid over this for each part.
    """
    paths = [str(root / "functions"), str(root), user.get("PYTHONPATH", "")]
    # The parts talk to one another on loopback, which a proxy cannot reach.
    direct = [user.get("NO_PROXY") or user.get("no_proxy") or "", "127.0.0.1", "localhost"]
    no_proxy = ",".join(filter(None, direct))
    return {
        **user,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
