"""The list of prices: a dated file that its reader edits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BASES = ("quoted", "assumed")


class PricesUnusable(Exception):
    """The file is not there, or not what it should be; the message names the place."""


@dataclass(frozen=True, slots=True)
class Price:
    """One price, and where it comes from. ``amount`` is ``None`` where nobody knows it."""

    amount: float | None
    is_assumed: bool
    source: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card that workers can have, and what it is called where."""

    name: str
    node: str
    container_apps: str | None


class Prices:
    """What the file says, looked up by ``group.name``."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a parsed file; raises PricesUnusable."""
        try:
            self.dated = str(document["dated"])
            self.currency = str(document["currency"])
            self.region = str(document["region"])
            self._usage: Mapping[str, Any] = document["usage"]
            self._prices = {
                f"{group}.{name}": _price(f"prices.{group}.{name}", entry)
                for group, entries in document["prices"].items()
                for name, entry in entries.items()
            }
            self.gpus = {
                name: Gpu(name, entry["node"], entry.get("container_apps"))
                for name, entry in document["gpus"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise PricesUnusable(f"prices: {error!r} is missing or has another shape") from None

    @classmethod
    def load(cls, path: Path) -> "Prices":
        """Read the file at ``path``; raises PricesUnusable."""
        import yaml  # noqa: PLC0415 - an extra, for this command alone

        try:
            document = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise PricesUnusable(f"{path}: {error}") from None
        if not isinstance(document, dict):
            raise PricesUnusable(f"{path}: expected a mapping")
        return cls(document)

    def price(self, name: str) -> Price:
        """Return the price of this name; raises PricesUnusable."""
        try:
            return self._prices[name]
        except KeyError:
            raise PricesUnusable(f"prices.{name}: is missing") from None

    def gpu(self, name: str) -> Gpu:
        """Return the card of this name; raises PricesUnusable that lists them."""
        try:
            return self.gpus[name]
        except KeyError:
            known = ", ".join(self.gpus)
            raise PricesUnusable(f"there is no GPU {name!r}; the file has {known}") from None

    def usage(self, name: str, key: str | None = None) -> float:
        """Return one number of ``usage``; raises PricesUnusable."""
        value = self._usage.get(name)
        if key is not None and isinstance(value, dict):
            value = value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise PricesUnusable(f"usage.{name}: expected a number, not less than 0")
        return float(value)


def _price(name: str, entry: Mapping[str, Any]) -> Price:
    amount, basis, source = entry["amount"], entry["basis"], entry["source"]
    is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if amount is not None and not (is_number and amount >= 0):
        raise PricesUnusable(f"{name}.amount: expected a number, not less than 0, or null")
    if basis not in _BASES:
        raise PricesUnusable(f"{name}.basis: expected {' or '.join(_BASES)}")
    return Price(amount, basis == "assumed", str(source))
