"""Write model catalogues for tests."""

from pathlib import Path

from contract.catalogue import Catalogue


def write(folder: Path, text: str) -> Path:
    """Write a catalogue with this text, and return its path."""
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str) -> Catalogue:
    """Write and load a catalogue with this text."""
    return Catalogue.load(write(folder, text))
