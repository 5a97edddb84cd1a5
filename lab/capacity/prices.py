"""The price list (infra/prices.yaml). Users edit the prices in this file for their region."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BASES = ("quoted", "assumed")


class PricesUnusable(Exception):
    """The price list cannot be read, or an entry is missing or invalid.

    The message names the file or the entry.
    """


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one unit, and the source of the price. An unknown ``amount`` is ``None``.

    ``is_assumed`` is true if no publication names the price.
    """

    amount: float | None
    is_assumed: bool
    source: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that Azure offers.

    ``node`` is the VM size with this GPU. ``container_apps`` is the workload profile of Container
    Apps with this GPU, or ``None`` if Container Apps does not offer this GPU.
    """

    name: str
    node: str
    container_apps: str | None


class Prices:
    """The price list. The name of a price has the form ``group.name``."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a parsed price list. Raises PricesUnusable if the price list is invalid."""
        try:
            self.dated = str(document["dated"])
            self.currency = str(document["currency"])
            self.region = str(document["region"])
            self._usage: Mapping[str, Any] = document["usage"]
            self._prices = {
                f"{group}.{name}": _parse_price(f"prices.{group}.{name}", entry)
                for group, entries in document["prices"].items()
                for name, entry in entries.items()
            }
            self.gpus = {
                name: Gpu(name, entry["node"], entry.get("container_apps"))
                for name, entry in document["gpus"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise PricesUnusable(
                f"prices: an entry is missing or has an unexpected structure: {error!r}"
            ) from None

    @classmethod
    def load(cls, path: Path) -> "Prices":
        """Read the price list from a file. Raises PricesUnusable if the file is invalid."""
        import yaml  # noqa: PLC0415 - from an extra that only this command needs

        try:
            document = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise PricesUnusable(f"{path} cannot be read: {error}") from None
        if not isinstance(document, dict):
            raise PricesUnusable(f"{path}: expected a YAML mapping at the top level")
        return cls(document)

    def price(self, name: str) -> Price:
        """Return the price with this name. Raises PricesUnusable if the name is unknown."""
        try:
            return self._prices[name]
        except KeyError:
            raise PricesUnusable(f"prices.{name} is missing: add it to the price list") from None

    def gpu(self, name: str) -> Gpu:
        """Return the GPU with this name. Raises PricesUnusable if the name is unknown."""
        try:
            return self.gpus[name]
        except KeyError:
            known = ", ".join(self.gpus)
            raise PricesUnusable(
                f"the price list has no GPU {name!r}: use one of {known}"
            ) from None

    def usage(self, name: str, key: str | None = None) -> float:
        """Return the number ``name`` from the section ``usage`` of the price list.

        Some entries of this section are mappings. For such an entry, ``key`` selects the number.
        Raises PricesUnusable if the number is missing or invalid.
        """
        value = self._usage.get(name)
        if key is not None and isinstance(value, dict):
            value = value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise PricesUnusable(f"usage.{name}: expected a number of at least 0, found {value!r}")
        return float(value)


def _parse_price(name: str, entry: Mapping[str, Any]) -> Price:
    amount, basis, source = entry["amount"], entry["basis"], entry["source"]
    is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if amount is not None and not (is_number and amount >= 0):
        raise PricesUnusable(
            f"{name}.amount: expected a number of at least 0, or null if the price is unknown, "
            f"found {amount!r}"
        )
    if basis not in _BASES:
        raise PricesUnusable(f"{name}.basis: expected {' or '.join(_BASES)}, found {basis!r}")
    return Price(amount, basis == "assumed", str(source))
