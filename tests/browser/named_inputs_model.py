"""A model without torch that has two named inputs."""

from typing import Annotated, Any

from PIL.Image import Image

from worker.models import Input


class Infer:
    """A model that returns the sizes of its two input pictures, and its named input `note`."""

    def __call__(
        self, image: Image, *, other: Image, note: Annotated[Any, Input("json")] = None
    ) -> dict[str, Any]:
        return {"image": image.size, "other": other.size, "note": note}
