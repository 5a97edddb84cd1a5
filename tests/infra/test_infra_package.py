"""What would be published has all that the app needs, and nothing else."""

import re
from pathlib import Path

import pytest

from infra.package import build, main, published
from tests.infra.deployment import ROOT

# What a key, a token or a connection string with one looks like.
_SECRET = re.compile(
    r"(?:AccountKey|SharedAccessKey)=[\w+/]{20,}|whsec_[\w+/]{20,}|lsy_[\w-]{20,}|PRIVATE KEY"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("package") / "functions"
    build(target)
    return target


def test_has_the_app_and_nothing_beside_it(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {
        *("contract", "gateway", "function_app.py", "host.json", "requirements.txt")
    }
    kinds = {path.suffix for path in package.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".toml", ".json", ".txt", ".html", ".js", ".css"}, kinds


def test_is_small_and_holds_no_secret(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    for path in files:
        assert not _SECRET.search(path.read_text(encoding="utf-8")), path


def test_leaves_out_what_a_developer_has_there(tmp_path: Path) -> None:
    app = tmp_path / "app"
    build(app)
    kept = published_from(app)
    for name in (
        *(".venv/bin/python", ".venv-3.13/x", "tests/test_it.py", "gateway/__pycache__/a.pyc"),
        *("local.settings.json", ".vscode/settings.json", ".gitignore", "gateway/old.pyc"),
        *(".mypy_cache/x", ".ruff_cache/x", ".pytest_cache/x"),
    ):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    assert published_from(app) == kept


def published_from(app: Path) -> list[Path]:
    (app / ".funcignore").write_text((ROOT / "functions/.funcignore").read_text("utf-8"), "utf-8")
    return published(app)


def test_a_pattern_that_would_be_read_otherwise_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".funcignore").write_text("gateway/old\n", encoding="utf-8")
    with pytest.raises(ValueError, match="names alone"):
        published(tmp_path)


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").touch()
    monkeypatch.setattr("sys.argv", ["package", str(tmp_path)])
    assert main() == 2
    assert (tmp_path / "thesis.txt").exists()
    monkeypatch.setattr("sys.argv", ["package", str(tmp_path / "functions")])
    assert (main(), main()) == (0, 0)
    assert re.search(r"\d+ files, \d+ KiB, \d+ KiB zipped", capsys.readouterr().out)
