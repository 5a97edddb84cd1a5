"""Who has reserved how much of the device, and who waits: shared by all processes that use it."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.memory.board import Board, Document, Page


@dataclass(frozen=True, slots=True)
class Claim:
    """What one model in one process has reserved or waits for.

    Times are seconds of the machine's monotonic clock, which all its processes share.
    `waiting_since` is None where the model does not wait, `turn_ends_at` where it is not loaded.
    `served_until` is when it last had to go; None where it never had to.
    """

    model: str
    reserved_bytes: int = 0
    waiting_bytes: int = 0
    waiting_since: float | None = None
    turn_ends_at: float | None = None
    served_until: float | None = None
    is_idle: bool = False
    is_leaving: bool = False

    @classmethod
    def read(cls, document: Document) -> "Claim":
        """From a page; ValueError where it is none of ours."""
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(str(error)) from None


class Claims:
    """All claims during one turn at the ledger, by name. `mine` may be replaced."""

    def __init__(self, page: Page, claims: dict[str, Claim]) -> None:
        self._page = page
        self._claims = claims
        self.name = page.name

    @property
    def mine(self) -> Claim:
        """This seat's claim."""
        return self._claims[self.name]

    @mine.setter
    def mine(self, claim: Claim) -> None:
        if claim != self._claims[self.name]:
            self._claims[self.name] = claim
            self._page.write(asdict(claim))

    @property
    def all(self) -> dict[str, Claim]:
        """Everybody's, by name."""
        return self._claims


class Ledger:
    """One model's page in the ledger of a device."""

    def __init__(self, folder: Path, claim: Claim) -> None:
        self._board = Board(folder)
        self._claim = claim
        with self._board.turn():
            self._page = self._board.add(asdict(claim))

    @contextlib.contextmanager
    def turn(self) -> Iterator[Claims]:
        """Look at all claims and change this one, with nobody in between."""
        with self._board.turn():
            claims = {}
            for name, document in self._board.read().items():
                with contextlib.suppress(ValueError):
                    claims[name] = Claim.read(document)
            claims[self._page.name] = self._claim
            changing = Claims(self._page, claims)
            yield changing
            self._claim = changing.mine

    def close(self) -> None:
        """Give everything back."""
        with self._board.turn():
            self._page.remove()
        self._board.close()
