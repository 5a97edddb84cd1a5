"""Tests of the model `brightness`, which `loosely test` runs."""

from pathlib import Path

from loosely import Client

PICTURE = Path(__file__).parents[1] / "examples" / "chelsea.jpg"


def test_the_model_returns_the_brightness_of_a_picture_in_the_chosen_unit(
    loosely_client: Client,
) -> None:
    fraction = loosely_client.run(PICTURE, "brightness").result["brightness"]
    percent = loosely_client.run(PICTURE, "brightness", parameters={"unit": "percent"}).result
    assert 0 < fraction < 1
    assert percent == {"brightness": fraction * 100}
