"""Test the command that writes the digests of weights into the model catalogue."""

import hashlib
import io
import tomllib
from pathlib import Path

import pytest

from contract.catalogue import Catalogue
from tests.hub_server import COMMIT, run_hub
from worker.tools.lock_weights import NotEditable, main, set_digest

A, B = "a" * 64, "b" * 64
ENTRY = """# The models of the team.

[one]  # the first
implementation = "models.one"
description = "One."
media_types = ["text/plain"]
  weights = "file:nets/one.bin"  # trained in May
max_batch_size = 4

[two]
implementation = "models.two"
description = "Two."
media_types = ["text/plain"]
weights = '{two}'
weights_sha256 = '{digest}'  # of May
"""


def run(catalogue: Path, *names: str, **environment: str) -> tuple[int, str, str]:
    output, errors = io.StringIO(), io.StringIO()
    environ = {
        "MODEL_CATALOGUE": str(catalogue),
        "WORKER_WEIGHTS_CACHE": str(catalogue.parent / "cache"),
        "GUARD_ALLOW": "127.0.0.1",
        **environment,
    }
    code = main(list(names), environ, output, errors)
    return code, output.getvalue(), errors.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "one.bin").write_bytes(b"one")
    (tmp_path / "nets" / "two.bin").write_bytes(b"two")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_catalogue(folder: Path, two: str = "file:nets/two.bin") -> tuple[Path, str]:
    catalogue, text = folder / "models.toml", ENTRY.format(two=two, digest=A)
    catalogue.write_text(text)
    return catalogue, text


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_missing_digest_is_the_only_line_added(folder: Path) -> None:
    catalogue, text = write_catalogue(folder)
    catalogue.chmod(0o640)
    assert run(catalogue) == (0, f"one: {sha256(b'one')} file:nets/one.bin\n", "")
    line = '  weights = "file:nets/one.bin"  # trained in May\n'
    assert catalogue.read_text() == text.replace(
        line, f'{line}  weights_sha256 = "{sha256(b"one")}"\n'
    )
    assert catalogue.stat().st_mode & 0o777 == 0o640
    assert Catalogue.load(catalogue)["one"].weights_sha256 == sha256(b"one")
    assert run(catalogue)[:2] == (
        0,
        "every entry with weights has a digest; name a model to compute it again\n",
    )


def test_digest_of_a_named_model_is_replaced(folder: Path) -> None:
    catalogue, text = write_catalogue(folder)
    assert run(catalogue, "two")[0] == 0
    assert catalogue.read_text() == text.replace(
        f"'{A}'  # of May", f'"{sha256(b"two")}"  # of May'
    )


def test_hub_weights_are_downloaded_into_the_cache(folder: Path) -> None:
    catalogue = folder / "models.toml"
    with run_hub() as hub:
        hub.token = "hf_secret"
        location = hub.add("acme/net", "a.bin", b"from the hub")
        entry = ENTRY.format(two=location, digest=A).replace(
            f"weights_sha256 = '{A}'  # of May\n", ""
        )
        catalogue.write_text(entry)
        code, output, errors = run(catalogue, "two", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_secret")
        assert (code, errors) == (0, "")
        assert output == f"two: {sha256(b'from the hub')} {location}\n"
        code, _, errors = run(catalogue, "two", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_other")
        assert code == 1
        assert "two: weights-missing: hf:acme/net@" in errors
        assert "hf_" not in errors
    assert Catalogue.load(catalogue)["two"].weights_sha256 == sha256(b"from the hub")
    assert (folder / "cache" / sha256(b"from the hub")).read_bytes() == b"from the hub"


@pytest.mark.parametrize(
    ("two", "names", "code", "said"),
    [
        ("file:nets/three.bin", ["two"], 1, "two: weights-missing: file:nets/three.bin: there is"),
        ("hf:acme/net@main/a.bin", ["two"], 1, "expected a commit of 40 hexadecimal digits"),
        (f"hf:acme/net@{COMMIT}/a.bin", ["two"], 1, "two: weights-away: hf:acme/net@"),
        ("blob:weights/a.bin", ["two"], 1, "weights-away: PAYLOAD_STORAGE is not set"),
        ("file:nets/two.bin", ["tow"], 2, "tow: "),
    ],
)
def test_failure_names_the_model(
    folder: Path, two: str, names: list[str], code: int, said: str
) -> None:
    catalogue, text = write_catalogue(folder, two)
    found, _, errors = run(catalogue, *names, HF_HUB_OFFLINE="1")
    assert (found, said in errors) == (code, True), errors
    assert catalogue.read_text() == text
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []


def test_other_digests_are_written_after_a_failure(folder: Path) -> None:
    catalogue, _ = write_catalogue(folder, "file:nets/absent.bin")
    code, output, errors = run(catalogue, "one", "two")
    assert (code, output.count("\n"), errors.count("\n")) == (1, 1, 1)
    assert tomllib.loads(catalogue.read_text())["one"]["weights_sha256"] == sha256(b"one")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[a]\nweights = "file:x"', f'[a]\nweights = "file:x"\nweights_sha256 = "{B}"\n'),
        (
            '[a."2"]\r\nweights = "file:x"\r\n',
            f'[a."2"]\r\nweights = "file:x"\r\nweights_sha256 = "{B}"\r\n',
        ),
        (
            "[z]\nweights = 'file:x'\n[ a ] # c\nweights='file:x'\nb = 1",
            (
                "[z]\nweights = 'file:x'\n[ a ] # c\nweights='file:x'\n"
                f'weights_sha256 = "{B}"\nb = 1'
            ),
        ),
        (
            f"[a]\nweights_sha256 = '{A}' # c\nweights = 'file:x'\n",
            f"[a]\nweights_sha256 = \"{B}\" # c\nweights = 'file:x'\n",
        ),
        (
            '[z]\nd = """\n[a]\nweights = 1\n"""\n[a]\nweights = "file:x"\n',
            (
                '[z]\nd = """\n[a]\nweights = 1\n"""\n[a]\nweights = "file:x"\n'
                f'weights_sha256 = "{B}"\n'
            ),
        ),
    ],
)
def test_every_form_of_a_table_is_edited(before: str, after: str) -> None:
    path = ("a", "2") if '"2"' in before else ("a",)
    assert set_digest(before, path, B) == after


@pytest.mark.parametrize("text", ['a = {weights = "file:x"}\n', 'a.weights = "file:x"\n'])
def test_line_to_add_is_shown_if_editing_fails(text: str) -> None:
    with pytest.raises(NotEditable, match=f'yourself: weights_sha256 = "{B}"'):
        set_digest(text, ("a",), B)
