"""What a part is: a command, its surroundings, and how to tell that it is ready."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Probe:
    """A GET on loopback that tells whether a part is ready."""

    port: int
    path: str = "/"
    #: The status that means ready; ``None`` takes any HTTP answer for one.
    status: int | None = 200


@dataclass(frozen=True, slots=True)
class Preparation:
    """A file that a part reads at its start, made from the output of a command."""

    command: tuple[str, ...]
    output: Path


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the system.

    ``environment`` is laid over the supervisor's own and is never shown: it holds keys.
    """

    name: str
    summary: str
    address: str
    command: tuple[str, ...]
    probe: Probe
    ports: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    preparation: Preparation | None = None
    #: How long a stop may take before the part is killed.
    drain_seconds: float = 10.0
