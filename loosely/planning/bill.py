"""A month's bill: lines of so much of something at a price."""

from dataclasses import dataclass, field
from typing import Any

from loosely.planning.prices import Price


@dataclass(frozen=True, slots=True)
class Line:
    """So much of ``what``. ``amount`` is ``None`` where the price is not known."""

    item: str
    what: str
    quantity: float
    price: Price

    @property
    def amount(self) -> float | None:
        """Quantity times price."""
        return None if self.price.amount is None else self.quantity * self.price.amount


@dataclass(slots=True)
class Bill:
    """One way to run the load, for a month."""

    name: str
    gpu_hours: float
    lines: list[Line] = field(default_factory=list)

    def add(self, item: str, what: str, quantity: float, price: Price) -> None:
        """Add a line."""
        self.lines.append(Line(item, what, quantity, price))

    @property
    def total(self) -> float:
        """The sum of what is known."""
        return sum(line.amount or 0.0 for line in self.lines)

    @property
    def unknown(self) -> list[str]:
        """What of it has no known price."""
        return [line.what for line in self.lines if line.amount is None]

    def by_item(self) -> dict[str, float | None]:
        """The sum of each item; ``None`` where none of its lines has a price."""
        sums: dict[str, float | None] = {}
        for line in self.lines:
            before, amount = sums.get(line.item), line.amount
            sums[line.item] = before if amount is None else (before or 0.0) + amount
        return sums

    def document(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "name": self.name,
            "gpu_hours": round(self.gpu_hours, 2),
            "total": round(self.total, 2),
            "unknown": self.unknown,
            "lines": [
                {
                    "item": line.item,
                    "what": line.what,
                    "quantity": round(line.quantity, 4),
                    "price": line.price.amount,
                    "assumed": line.price.is_assumed,
                    "amount": None if line.amount is None else round(line.amount, 2),
                }
                for line in self.lines
            ],
        }
