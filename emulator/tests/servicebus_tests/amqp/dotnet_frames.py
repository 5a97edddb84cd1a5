"""Read the frames that Microsoft's SDK for .NET sent, from `dotnet_frames.txt`."""

from pathlib import Path

RECORDING = Path(__file__).with_name("dotnet_frames.txt")


def read_cases() -> dict[str, list[tuple[str, str, bytes]]]:
    """Return the recorded frames of each case, by the name of the case.

    Each frame is a tuple of its channel, the name of its performative, and its bytes.
    """
    cases: dict[str, list[tuple[str, str, bytes]]] = {}
    for line in RECORDING.read_text().splitlines():
        if line.startswith("## "):
            frames = cases[line.removeprefix("## ")] = []
        elif not line.startswith("#"):
            channel, name, octets = line.split()
            frames.append((channel, name, bytes.fromhex(octets)))
    return cases


CASES = read_cases()
