"""Text that came over the network, made safe to show on a terminal."""

_UNSHOWABLE = "\ufffd"


def printable(text: object) -> str:
    """Return ``text`` on one line, without the control characters that steer terminals."""
    return _shown(" ".join(str(text).split()))


def printable_lines(text: str) -> str:
    """Return ``text`` with its lines and spaces, without control characters."""
    return "\n".join(_shown(line.expandtabs()) for line in text.splitlines())


def _shown(line: str) -> str:
    return "".join(c if c.isprintable() else _UNSHOWABLE for c in line)
