"""Text that came over the network, made safe to show on a terminal."""


def printable(text: object) -> str:
    """Return ``text`` on one line, without the control characters that steer terminals."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))
