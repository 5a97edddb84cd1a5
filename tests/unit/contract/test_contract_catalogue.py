import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import contract
from contract import queues
from contract.__main__ import main
from contract.catalogue import DEFAULT_PATH, Catalogue, format_entry
from contract.errors import CatalogueError, UnknownModel
from contract.messages import MAX_MESSAGE_BYTES
from contract.named_tables import NamedInput, NamedResult
from tests.unit.contract.catalogue_files import load, write

SHIPPED = DEFAULT_PATH.read_text(encoding="utf-8")
SHA256 = "ab" * 32
COMMIT = "0123456789" * 4


def entry(line: str) -> tuple[str, str]:
    """Return two arguments for `str.replace` that add `line` to noop's entry in a catalogue."""
    return 'task = "echo"', f'task = "echo"\n{line}'


def test_shipped_catalogue_has_three_models() -> None:
    catalogue = Catalogue.load()
    assert list(catalogue) == ["classifier", "voice-activity", "noop"]
    assert catalogue.model("classifier").media_types == ("image/jpeg", "image/png", "image/webp")


def test_default_upload_limits_follow_from_body_limits(tmp_path: Path) -> None:
    own = 'media_types = ["a/b"]\nimplementation = "a.b"\ndescription = "-"\n'
    named = 'inputs.x = {media_types = ["a/b"]}\n'
    both = 'inputs.x = {media_types = ["a/b"], max_input_bytes = 7}\n'
    text = f"[a]\n{own}{named}[b]\n{own}{both}max_input_bytes = 9\n"
    first, second = load(tmp_path, text).values()
    assert (first.max_input_bytes, first.max_upload_bytes) == (4 * 1024**2, 10 * 1024**2)
    assert first.inputs["x"].max_input_bytes == 4 * 1024**2
    assert first.inputs["x"].max_upload_bytes == 10 * 1024**2
    assert (second.max_input_bytes, second.max_upload_bytes) == (9, 9)
    assert (second.inputs["x"].max_input_bytes, second.inputs["x"].max_upload_bytes) == (7, 7)


def test_body_limit_exceeds_inputs_in_base64(tmp_path: Path) -> None:
    shipped = Catalogue.load()
    beyond = 64 * 1024 + 256 * 1024
    assert shipped.body_limit_bytes == 6 * 1024**2
    for size_bytes, inputs, expected in (
        (1, "", 1 + beyond),
        (500_000, "", 666_666 + beyond),
        (600_000, "", 600_000 + 2 * 1024**2),
        (30_000_000, "", 40_000_000 + beyond),
        (3_000_000, 'inputs.x = {media_types = ["a/b"]}', 8_000_000 + beyond),
        (100 * 1024**2, "", 100 * 1024**2),
    ):
        text = f'[a]\nimplementation = "a.b"\ndescription = "-"\nmedia_types = ["a/b"]\n{inputs}'
        path = write(tmp_path, f"{text}\nmax_input_bytes = {size_bytes}\n")
        assert Catalogue.load(path).body_limit_bytes == expected
        values = json.loads(print_from(path, "host-settings"))["Values"]
        assert values == {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(expected)}
    assert MAX_MESSAGE_BYTES < 256 * 1024, "a worker's reply must be accepted"


def print_from(path: Path, command: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "contract", command, str(path)],
        env={"PYTHONPATH": str(Path(contract.__file__).parents[1])},
        capture_output=True,
        check=True,
    ).stdout


def test_local_system_gets_both_files_from_one_command(tmp_path: Path) -> None:
    path = write(tmp_path, SHIPPED)
    names = ("queues", "host-settings")
    expected = {name: print_from(path, name).decode() for name in names}
    assert json.loads(print_from(path, "local")) == expected


def test_url_input_may_be_as_large_as_an_upload() -> None:
    shipped = Catalogue.load()
    assert {model.max_url_bytes for model in shipped.values()} == {10 * 1024**2}
    assert replace(shipped["noop"], max_input_bytes=9, max_upload_bytes=9).max_url_bytes == 9
    assert replace(shipped["noop"], max_input_bytes=2 * 10**7).max_url_bytes == 2 * 10**7


def test_weights_and_options_are_read(tmp_path: Path) -> None:
    lines = (
        f'weights = "blob:weights/nets/resnet 50.pth"\nweights_sha256 = "{SHA256}"\n'
        'options = {architecture = "resnet50", threshold = 0.5}\nmemory_bytes = 98_000_000\n'
        'result_media_type = "image/png"'
    )
    model = load(tmp_path, SHIPPED.replace(*entry(lines)))["noop"]
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


def test_parameters_are_read_and_printed(tmp_path: Path) -> None:
    lines = (
        'parameters.least = {type = "number", minimum = 0, maximum = 1, default = 0.5}\n'
        'parameters.mode = {type = "string", enum = ["a", "b"], description = "How."}'
    )
    model = load(tmp_path, SHIPPED.replace(*entry(lines)))["noop"]
    assert dict(model.parameters) == {
        "least": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "mode": {"type": "string", "enum": ["a", "b"], "description": "How."},
    }
    assert hash(model)
    assert dict(Catalogue.load()["noop"].parameters) == {}
    printed = load(tmp_path, format_entry(model))["noop"]
    assert printed.parameters == model.parameters


def test_named_results_are_read_and_printed(tmp_path: Path) -> None:
    lines = (
        'results.mask = {media_type = "image/png"}\n'
        'results.crop = {media_type = "image/jpeg", optional = true, description = "A part."}'
    )
    model = load(tmp_path, SHIPPED.replace(*entry(lines)))["noop"]
    assert dict(model.results) == {
        "mask": NamedResult("image/png"),
        "crop": NamedResult("image/jpeg", "A part.", optional=True),
    }
    assert hash(model)
    printed = load(tmp_path, format_entry(model))["noop"]
    assert printed.results == model.results


def test_named_inputs_get_default_limits(tmp_path: Path) -> None:
    lines = (
        'inputs.mask = {media_types = ["image/png"]}\n'
        'inputs.note = {media_types = ["text/plain"], optional = true, description = "A note.", '
        "max_input_bytes = 10, max_upload_bytes = 20}\n"
        'inputs.wide = {media_types = ["image/png"], max_pixels = 0}'
    )
    model = load(tmp_path, SHIPPED.replace(*entry(lines)))["noop"]
    mebibytes = 4 * 1024 * 1024
    assert dict(model.inputs) == {
        "mask": NamedInput(("image/png",), "", False, mebibytes, mebibytes, 50_000_000),
        "note": NamedInput(("text/plain",), "A note.", True, 10, 20, 0),
        "wide": NamedInput(("image/png",), "", False, mebibytes, mebibytes, 0),
    }
    assert model.required_inputs == ("mask", "wide")
    assert model.max_all_inputs_bytes == 3 * mebibytes + 10
    mask = model.entry_of_input("mask")
    assert (mask.name, mask.media_types, mask.max_pixels) == ("noop", ("image/png",), 50_000_000)
    assert model.entry_of_input(None) == model
    assert hash(model)
    printed = load(tmp_path, format_entry(model))["noop"]
    assert printed.inputs == model.inputs


MINIMAL = """
[small]
implementation = "models.small"
description = "A small model."
media_types = {types}
"""


def test_required_keys_are_enough(tmp_path: Path) -> None:
    images = load(tmp_path, MINIMAL.format(types='["image/png"]'))["small"]
    assert (images.queue, images.max_pixels) == ("small", 50_000_000)
    assert (images.max_input_bytes, images.max_upload_bytes) == (4 * 1024**2, 10 * 1024**2)
    assert (images.deadline_seconds, images.max_batch_size, images.lock_seconds) == (60, 8, 10)
    mixed = MINIMAL.format(types='["image/png", "text/plain"]') + "deadline_seconds = 7_200\n"
    model = load(tmp_path, mixed)["small"]
    assert (model.max_pixels, model.max_deadline_seconds) == (0, 7200)
    unlimited = MINIMAL.format(types='["image/png"]') + "max_pixels = 0\n"
    assert load(tmp_path, unlimited)["small"].max_pixels == 0


@given(
    text=st.text(min_size=1),
    options=st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
            lambda name: name != "weights"
        ),
        st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans(),
    ),
)
@example(text='"\\ \x7f\u2028', options={"a": float("-inf"), "b": 1e300, "c": ""})
def test_printed_entry_can_be_read_again(
    tmp_path_factory: pytest.TempPathFactory, text: str, options: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("catalogue")
    path = write(folder, MINIMAL.format(types='["a/b"]'))
    model = replace(Catalogue.load(path)["small"], description=text, options=options)
    write(folder, format_entry(model))
    # NaN is not equal to itself, so the texts are compared.
    assert format_entry(Catalogue.load(path)["small"]) == format_entry(model)


def test_entry_command_prints_all_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["entry", "classifier"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[classifier]\nimplementation = ")
    assert "max_upload_bytes = 10485760\n" in printed
    assert main(["entry", "clasifier"]) == 2
    assert "did you mean classifier" in capsys.readouterr().err


def test_unknown_model_suggests_similar_names() -> None:
    with pytest.raises(UnknownModel, match="did you mean classifier") as caught:
        Catalogue.load().model("clasifier")
    assert caught.value.nearest == ("classifier",)


def test_hub_files_are_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = f'weights = "hf:acme/net@{COMMIT}/a b.bin"\nweights_sha256 = "{SHA256}"\n'
    tables = [
        MINIMAL.format(types='["a/b"]').replace("small", name) + hub for name in ("one", "two")
    ]
    path = write(tmp_path, "\n".join([*tables, MINIMAL.format(types='["a/b"]')]))
    assert main(["hub-files", str(path)]) == 0
    assert capsys.readouterr().out == f"{SHA256} acme/net/resolve/{COMMIT}/a%20b.bin\n"
    assert main(["hub-files"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["hub-files", str(tmp_path / "nowhere.toml")]) == 2


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('queue = "noop"', 'queue = "classifier"', "use the queue classifier"),
        ('queue = "noop"', 'queue = "classifier-low"', "classifier-low is already another model's"),
        ('queue = "noop"', 'queue = "No op"', "noop.queue: expected 1 to 63 lower-case letters"),
        ('implementation = "worker.models.noop"', "", "noop.implementation: the key is missing"),
        ('task = "echo"', "task = 3", "noop.task: expected a non-empty string"),
        ('task = "echo"', 'task = "echo"\ncolour = "red"', "noop.colour: this key does not exist"),
        (
            "lock_seconds = 10",
            "lock_seconds = 301",
            "lock_seconds: expected a number from 5 to 300",
        ),
        ("max_batch_size = 16", 'max_batch_size = "16"', "expected a whole number"),
        ("[noop]", "[noop", "cannot read the catalogue"),
        ("[noop]", "[noop]\noptions.a = " + "[" * 5000 + "]" * 5000, "is nested too deep"),
        ("[noop]", "[noop]\n" + "a." * 20_000 + "a = 1", "a key has more than 50 parts"),
        ("[noop]", "[noop]\n" + ' "a" . ' * 50 + "'a' = 1", "a key has more than 50 parts"),
        ("max_upload_bytes = 1_073_741_824", "max_upload_bytes = 4_194_303", "max_upload_bytes"),
        (SHIPPED, "", "has no model"),
        (SHIPPED, "noop = 1", "noop: expected a table"),
        (*entry('weights = "hub:resnet50"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "blob:weights"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "package:../x"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "hf:net@main/a"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (*entry('weights = "hf:acme/../a"'), "noop.weights: expected blob:CONTAINER/NAME"),
        (
            *entry('weights = "hf:acme/net@main/a.bin"'),
            "weights: expected a commit of 40 hexadecimal digits after acme/net@, found 'main'",
        ),
        (*entry('weights = "hf:acme/net@0123abc/a.bin"'), "found '0123abc': a branch or a tag may"),
        (*entry('weights = "hf:acme/net/a.bin"'), "after acme/net@, found no commit"),
        (*entry(f'weights = "hf:acme/net@{COMMIT}"'), "noop.weights: expected blob:"),
        (
            *entry(f'weights = "hf:acme/net@{COMMIT}/../a"'),
            "noop.weights: expected a relative path",
        ),
        (*entry('weights = "file:/etc/passwd"'), "noop.weights: expected a relative path"),
        (*entry('weights = "file:../a.bin"'), "noop.weights: expected a relative path"),
        (
            *entry(f'weights = "hf:acme/net@{COMMIT}/a.bin"'),
            "weights that begin with 'hf:' need it; run `loosely models lock noop`",
        ),
        (*entry('weights = "blob:weights/a.pth"'), "noop.weights_sha256: the key is missing"),
        (*entry(f'weights_sha256 = "{SHA256}"'), "noop.weights: the key is missing"),
        (*entry('weights_sha256 = "ABC"'), "noop.weights_sha256: expected 64 hexadecimal digits"),
        (*entry("options = 3"), "noop.options: expected a table"),
        (*entry("options = {depth = [1]}"), "noop.options.depth: expected a string, a number"),
        (*entry("options = {weights = 1}"), "options.weights: an option's name must be"),
        (*entry('result_media_type = "png"'), "noop.result_media_type: expected a media type"),
        (*entry("parameters = 3"), "noop.parameters: expected a table"),
        (
            *entry("parameters.n = 3"),
            'noop.parameters.n: expected a table whose key "type" has one of the values',
        ),
        (
            *entry('parameters.n = {type = "object"}'),
            'parameters.n: expected a table whose key "type"',
        ),
        (
            *entry('parameters.n = {type = "string", pattern = "a"}'),
            "n.pattern: a schema of the type",
        ),
        (
            *entry('parameters.n = {type = "integer", default = true}'),
            "n.default: expected a whole",
        ),
        (
            *entry('parameters.n = {type = "integer", minimum = "1"}'),
            "n.minimum: expected a number, found '1'",
        ),
        (
            *entry('parameters.n = {type = "string", enum = [1]}'),
            r"n.enum: expected a list of .*, found \[1\]",
        ),
        (
            *entry('parameters.n = {type = "string", enum = []}'),
            r"n.enum: expected a list of .*, found \[\]",
        ),
        (*entry("results = 3"), "noop.results: expected a table, for example"),
        (*entry("results.mask = 3"), "noop.results.mask: expected a table"),
        (*entry("results.mask = {}"), "results.mask.media_type: the key is missing"),
        (*entry('results.mask = {media_type = ""}'), "mask.media_type: expected a media type"),
        (*entry('results.mask = {media_type = "a/b; c=d"}'), "media_type: expected a media type"),
        (*entry("results.mask = {media_type = 1}"), "mask.media_type: the value 1 is not valid"),
        (
            *entry('results.m = {media_type = "a/b", kind = 1}'),
            "m.kind: a named result has no",
        ),
        (*entry('results.m = {media_type = "a/b", optional = 1}'), "m.optional: the value 1"),
        (*entry('results.Mask = {media_type = "a/b"}'), "results.Mask: the name must have 1 to"),
        (*entry('results.result = {media_type = "a/b"}'), "results.result: the name must have"),
        (
            *entry("\n".join(f'results.m{n} = {{media_type = "a/b"}}' for n in range(5))),
            "noop.results: expected at most 4 named results, found 5",
        ),
        (*entry("inputs = 3"), "noop.inputs: expected a table, for example"),
        (*entry("inputs.mask = 3"), "noop.inputs.mask: expected a table"),
        (*entry("inputs.mask = {}"), "inputs.mask.media_types: the key is missing"),
        (*entry("inputs.mask = {media_types = []}"), r"media_types: the value \[\] is not valid"),
        (
            *entry('inputs.Mask = {media_types = ["a/b"]}'),
            "inputs.Mask: the name must have 1 to 32",
        ),
        (*entry('inputs.file = {media_types = ["a/b"]}'), "inputs.file: the name must have"),
        (
            *entry('inputs.m = {media_types = ["a/b"], kind = 1}'),
            "m.kind: a named input has no",
        ),
        (*entry('inputs.m = {media_types = ["a/b"], optional = 1}'), "m.optional: the value 1"),
        (*entry('inputs.m = {media_types = ["a/b"], max_pixels = -1}'), "max_pixels: the value -1"),
        (
            *entry('inputs.m = {media_types = ["a/b"], max_input_bytes = 0}'),
            "m.max_input_bytes: expected at least 1, found 0",
        ),
        (
            *entry('inputs.m = {media_types = ["a/b"], max_upload_bytes = 9}'),
            "m.max_upload_bytes: expected at least max_input_bytes, which is 4194304, found 9",
        ),
        (
            *entry('inputs.m = {media_types = ["a/b"], max_upload_bytes = 6_000_000_000}'),
            "m.max_upload_bytes: expected at most 5242880000",
        ),
        (
            *entry('inputs.m = {media_types = ["a/b"], max_input_bytes = 104_000_000}'),
            "noop.inputs: the sum of max_input_bytes of all inputs is 108194304",
        ),
        (
            *entry("".join(f'inputs.m{n} = {{media_types = ["a/b"]}}\n' for n in range(5))),
            "noop.inputs: expected at most 4 named inputs, found 5",
        ),
        (
            *entry('inputs.m = {media_types = ["a/b"]}\nparameters.m = {type = "boolean"}'),
            "noop.inputs.m: a parameter of the model has the same name",
        ),
    ],
)
def test_refusal_names_the_invalid_key(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in SHIPPED
    with pytest.raises(CatalogueError, match=said):
        load(tmp_path, SHIPPED.replace(before, after))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.toml"):
        Catalogue.load(tmp_path / "nowhere.toml")


def test_each_model_has_two_queues() -> None:
    (namespace,) = queues.config(Catalogue.load())["UserConfig"]["Namespaces"]
    by_name = {queue["Name"]: queue["Properties"] for queue in namespace["Queues"]}
    names = ("classifier", "voice-activity", "noop")
    assert set(by_name) == {*names, *(f"{name}-low" for name in names)}
    assert by_name["classifier"]["LockDuration"] == "PT10S"
    low = {"DefaultMessageTimeToLive": f"PT{queues.LONGEST_BATCH_SECONDS}S"}
    assert by_name["classifier-low"] == by_name["classifier"] | low
    assert all(properties["RequiresDuplicateDetection"] for properties in by_name.values())


def test_queues_command_prints_the_emulators_config(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "contract", "queues"]
    folder = DEFAULT_PATH.parents[1]
    good = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    assert json.loads(good.stdout)["UserConfig"]
    bad = subprocess.run(
        [*command, str(write(tmp_path, "a = 1"))], cwd=folder, capture_output=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert bad.stderr == b"a: expected a table; begin it with [a]\n"
