"""What a process needs to know to share a device."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """`budget_bytes` is the memory of the CPU as a card, None for no limit.

    `folder` is where the processes of a device meet. Without `is_admitting` nothing is reserved
    before it is used. A loaded model keeps its place for `turn_seconds` while others wait.
    `card_shares` is among how many pods a card is divided, which have no folder in common.
    """

    budget_bytes: int | None = None
    folder: Path = field(default_factory=Path)
    is_admitting: bool = True
    turn_seconds: float = 5.0
    card_shares: int = 1
