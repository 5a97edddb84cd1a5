"""A model that other models call. It can wait for a file, and counts its runs."""

import time
from pathlib import Path
from typing import Any


class Infer:
    """Logs and returns the member `name` of its input, first waiting for the file `wait_for`."""

    def __call__(self, item: Any) -> Any:
        with Path(item["log"]).open("a") as log:
            log.write(f"{item['name']}\n")
        while "wait_for" in item and not Path(item["wait_for"]).exists():
            time.sleep(0.02)
        return {"name": item["name"]}
