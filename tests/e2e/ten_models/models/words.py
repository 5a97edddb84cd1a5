"""A model that counts the most frequent words of a text."""

from collections import Counter


class Infer:
    """Returns the three most frequent words of a text, each with its count."""

    def __call__(self, text: str) -> dict[str, int]:
        return dict(Counter(text.lower().split()).most_common(3))
