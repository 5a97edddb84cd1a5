import json
import subprocess
import sys
from pathlib import Path

import pytest

from contract import queues
from contract.catalogue import DEFAULT_PATH, Catalogue
from contract.errors import CatalogueError, UnknownModel

SHIPPED = DEFAULT_PATH.read_text(encoding="utf-8")
SHA256 = "ab" * 32


def entry(line: str) -> tuple[str, str]:
    """A replacement in the shipped catalogue that adds this line to noop."""
    return 'task = "echo"', f'task = "echo"\n{line}'


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_catalogue_loads() -> None:
    catalogue = Catalogue.load()
    assert list(catalogue) == ["classifier", "voice-activity", "noop"]
    assert catalogue.model("classifier").media_types == ("image/jpeg", "image/png", "image/webp")


def test_an_upload_may_be_as_large_as_a_body_unless_the_catalogue_says_more() -> None:
    catalogue = Catalogue.load()
    assert catalogue["classifier"].max_upload_bytes == catalogue["classifier"].max_input_bytes
    assert catalogue["noop"].max_upload_bytes == 1024**3


def test_weights_and_options_are_read_unchanged(tmp_path: Path) -> None:
    lines = (
        f'weights = "blob:weights/nets/resnet 50.pth"\nweights_sha256 = "{SHA256}"\n'
        'options = {architecture = "resnet50", threshold = 0.5}\nmemory_bytes = 98_000_000\n'
        'result_media_type = "image/png"'
    )
    model = Catalogue.load(write(tmp_path, SHIPPED.replace(*entry(lines))))["noop"]
    assert model.weights == "blob:weights/nets/resnet 50.pth"
    assert model.weights_sha256 == SHA256
    assert dict(model.options) == {"architecture": "resnet50", "threshold": 0.5}
    assert (model.memory_bytes, model.result_media_type) == (98_000_000, "image/png")
    assert hash(model)
    plain = Catalogue.load()["noop"]
    assert (plain.weights, dict(plain.options), plain.result_media_type) == (
        *("", {}),
        "application/json",
    )


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModel, match="did you mean classifier") as caught:
        Catalogue.load().model("clasifier")
    assert caught.value.nearest == ("classifier",)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('queue = "noop"', 'queue = "classifier"', "share a queue"),
        ('queue = "noop"', 'queue = "classifier-low"', "classifier-low is another model's"),
        ('queue = "noop"', 'queue = "No op"', "noop.queue: small letters"),
        ('queue = "noop"', "", "noop.queue: is missing"),
        ('task = "echo"', "task = 3", "noop.task: expected a text"),
        ('task = "echo"', 'task = "echo"\ncolour = "red"', "noop.colour: unknown key"),
        ("lock_seconds = 10", "lock_seconds = 301", "lock_seconds: expected 5 to 300"),
        ("max_batch_size = 16", 'max_batch_size = "16"', "expected a whole number"),
        ("[noop]", "[noop", "cannot read the catalogue"),
        ("max_upload_bytes = 1_073_741_824", "max_upload_bytes = 10_485_759", "max_upload_bytes"),
        (SHIPPED, "", "has no model"),
        (SHIPPED, "noop = 1", "noop: expected a table"),
        (*entry('weights = "hub:resnet50"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "blob:weights"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "package:../x"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "blob:weights/a.pth"'), "noop.weights_sha256: is missing"),
        (*entry(f'weights_sha256 = "{SHA256}"'), "noop.weights: is missing"),
        (*entry('weights_sha256 = "ABC"'), "noop.weights_sha256: expected 64 small hex digits"),
        (*entry("options = 3"), "noop.options: expected a table"),
        (*entry("options = {depth = [1]}"), "noop.options.depth: expected a text, a number"),
        (*entry("options = {weights = 1}"), "options.weights: is not a valid name of an option"),
        (*entry('result_media_type = "png"'), "noop.result_media_type: expected one such as"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_its_key(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in SHIPPED
    with pytest.raises(CatalogueError, match=said):
        Catalogue.load(write(tmp_path, SHIPPED.replace(before, after)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.toml"):
        Catalogue.load(tmp_path / "nowhere.toml")


def test_every_model_gets_its_two_queues_with_duplicate_detection() -> None:
    (namespace,) = queues.config(Catalogue.load())["UserConfig"]["Namespaces"]
    by_name = {queue["Name"]: queue["Properties"] for queue in namespace["Queues"]}
    names = ("classifier", "voice-activity", "noop")
    assert set(by_name) == {*names, *(f"{name}-low" for name in names)}
    assert by_name["classifier"]["LockDuration"] == "PT10S"
    assert by_name["classifier-low"] == by_name["classifier"]
    assert all(properties["RequiresDuplicateDetection"] for properties in by_name.values())


def test_the_queues_are_printed_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "contract.queues"]
    folder = DEFAULT_PATH.parents[1]
    good = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    assert json.loads(good.stdout)["UserConfig"]
    bad = subprocess.run(
        [*command, str(write(tmp_path, "a = 1"))], cwd=folder, capture_output=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert bad.stderr == b"a: expected a table, write [a]\n"
