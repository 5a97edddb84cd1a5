"""A model that answers a chat word by word."""

import time
from collections.abc import Iterator
from typing import Any, ClassVar

from worker.models import Accepts, Context


class Infer:
    """Repeats the last message, or the prompt; with `slow`, one word in a tenth of a second."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, item: dict[str, Any], context: Context) -> Iterator[str]:
        given = item.get("prompt") or item.get("input")
        text = given if isinstance(given, str) else item["messages"][-1]["content"]
        if text == "fail":
            raise ValueError("this model was told to fail")
        for word in text.split(" "):
            if text.startswith("slow"):
                time.sleep(0.1)
            context.check()
            yield f"{word} "
