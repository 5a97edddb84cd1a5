"""What an operation wants done of its client: the seam between the contract and the network.

An operation is a generator. It yields steps, is sent what came of each, and returns its
outcome; a step that got no answer is thrown back as `GatewayUnreachable`. It knows nothing of
sockets, clocks or event loops, so one text serves the synchronous client and the other.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileBody:
    """A file to be sent in pieces; it is opened anew for each attempt."""

    path: Path
    size_bytes: int


Body: TypeAlias = bytes | FileBody


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``place`` is what errors may say of the address."""

    method: str
    url: str = field(repr=False)
    place: str
    timeout_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; the names of ``headers`` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; answered with an `Answer`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """The same, but the body of a 200 is left to be read by `Read`. Closes the one before."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Answered with the next piece of what was opened, ``b""`` at its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Give a value to whoever iterates."""

    value: Any


Step: TypeAlias = Send | Open | Read | Pause | Emit
Steps: TypeAlias = Generator[Step, Any, T]


def send(request: Request) -> Steps[Answer]:
    """Send a request, return its answer."""
    answer: Answer = yield Send(request)
    return answer


def kept(steps: Steps[T], outcome: list[T]) -> Steps[None]:
    """Do the steps, and put their outcome aside: what yields values returns none."""
    outcome.append((yield from steps))
