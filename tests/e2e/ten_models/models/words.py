"""The most frequent words of a text."""

from collections import Counter


class Infer:
    """Answers with the three most frequent words."""

    def __call__(self, text: str) -> dict[str, int]:
        return dict(Counter(text.lower().split()).most_common(3))
