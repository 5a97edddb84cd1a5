"""Check the files that `./dev package` puts into the package of the Function App."""

import re
from pathlib import Path

import pytest

from gateway.http.routes.pages import FOLDER
from loosely.local.package import copy_function_app, list_published
from tests.infra.deployment import ROOT

# Matches keys, tokens and connection strings with a key.
_SECRET = re.compile(
    rb"(?:AccountKey|SharedAccessKey)=[\w+/]{20,}|whsec_[\w+/]{20,}|lsy_[\w-]{20,}|PRIVATE KEY"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("package") / "functions"
    copy_function_app(target, ROOT / "functions")
    return target


def test_package_contains_only_the_function_app(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {
        *("contract", "gateway", "function_app.py", "host.json", "requirements.txt")
    }
    kinds = {path.suffix for path in files_in(package)}
    texts = {".py", ".toml", ".json", ".txt", ".html", ".js", ".css", ".svg"}
    samples = {".jpg", ".wav"}
    assert kinds <= texts | samples, kinds


def files_in(package: Path) -> list[Path]:
    return [path for path in package.rglob("*") if path.is_file()]


def test_package_is_smaller_than_4_mb(package: Path) -> None:
    # The viewer of the page /docs is 2 MB of this.
    assert sum(path.stat().st_size for path in files_in(package)) < 4_000_000


def test_package_contains_the_web_pages(package: Path) -> None:
    pages = Path("gateway/http/pages")
    copied = {path.relative_to(package / pages) for path in files_in(package / pages)}
    names = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    assert copied == names
    assert Path("docs.html") in copied


def test_package_contains_no_secret(package: Path) -> None:
    for path in files_in(package):
        assert not _SECRET.search(path.read_bytes()), path


def test_package_excludes_environments_and_settings(tmp_path: Path) -> None:
    app = tmp_path / "app"
    copy_function_app(app, ROOT / "functions")
    published = published_from(app)
    for name in (
        *(
            ".venv/bin/python",
            ".venv-3.13/x",
            "functions_env/pyvenv.cfg",
            "tests/test_it.py",
            "gateway/__pycache__/a.pyc",
        ),
        *("local.settings.json", ".vscode/settings.json", ".gitignore", "gateway/old.pyc"),
        *(".mypy_cache/x", ".ruff_cache/x", ".pytest_cache/x"),
    ):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    assert published_from(app) == published


def published_from(app: Path) -> list[Path]:
    (app / ".funcignore").write_text((ROOT / "functions/.funcignore").read_text("utf-8"), "utf-8")
    return list_published(app)


def test_funcignore_pattern_with_a_slash_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".funcignore").write_text("gateway/old\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a pattern that contains no /"):
        list_published(tmp_path)
