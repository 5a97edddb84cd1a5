"""Test how a model folder is found, made, watched and packaged."""

import hashlib
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from loosely.local.environment import check_requirements, find_root
from loosely.local.errors import ExtraMissing, FolderUnusable
from loosely.local.model_folder import Example, ModelFolder, find_model_folder, make_model_folder
from loosely.local.package import write_azd_project, write_package
from loosely.local.watch import FileWatch, find_code_error

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "functions" / "contract" / "models.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "demo"
    make_model_folder(made, ROOT)
    return made


def test_root_is_clone_or_part_of_wheel(tmp_path: Path) -> None:
    assert find_root() == ROOT
    package = tmp_path / "loosely"
    assert find_root(package) == tmp_path
    (package / "system").mkdir(parents=True)
    assert find_root(package) == package / "system"


class TestFind:
    def test_folder_is_found_from_inside(self, folder: Path) -> None:
        expected = ModelFolder(folder, folder / "models.toml", folder / "models")
        for current in (folder, folder / "models", folder / "examples"):
            assert find_model_folder(current, ROOT, {}) == expected
        assert expected.data == folder / ".loosely"

    def test_shipped_models_are_found_in_repository(self) -> None:
        for current in (ROOT, ROOT / "docs", SHIPPED.parent):
            found = find_model_folder(current, ROOT, {})
            assert found == ModelFolder(ROOT, SHIPPED, ROOT / "worker" / "models")

    def test_data_is_outside_installed_package(self, tmp_path: Path) -> None:
        root = tmp_path / "site-packages" / "loosely" / "system"
        found = find_model_folder(tmp_path, root, {})
        assert found.data == tmp_path / ".loosely"
        assert found.catalogue == root / "functions" / "contract" / "models.toml"

    def test_model_catalogue_replaces_only_catalogue(self, folder: Path) -> None:
        found = find_model_folder(folder, ROOT, {"MODEL_CATALOGUE": str(SHIPPED)})
        assert found == ModelFolder(folder, SHIPPED, folder / "models")


class TestMake:
    def test_only_empty_folder_is_used(self, tmp_path: Path) -> None:
        full, empty = tmp_path / "full", tmp_path / "empty"
        for path in (full, empty):
            path.mkdir()
        (full / "thesis.txt").touch()
        with pytest.raises(FolderUnusable, match="not an empty folder"):
            make_model_folder(full, ROOT)
        assert [path.name for path in full.iterdir()] == ["thesis.txt"]
        make_model_folder(empty, ROOT)
        assert (empty / "models.toml").is_file()

    def test_unwritable_folder_states_reason(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FolderUnusable, match="cannot be written: Not a directory"):
            make_model_folder(tmp_path / "file" / "demo", ROOT)

    def test_new_folder_has_model_test_and_input(self, folder: Path) -> None:
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files == {
            *("models.toml", "README.md", ".gitignore", "examples/chelsea.jpg"),
            *("models/__init__.py", "models/brightness.py", "tests/test_brightness.py"),
        }

    def test_chat_checks_its_weights_by_digest(self, tmp_path: Path) -> None:
        make_model_folder(tmp_path / "chat", ROOT, Example.CHAT)
        entries = tomllib.loads((tmp_path / "chat" / "models.toml").read_text("utf-8"))
        assert {name: entry["openai"] for name, entry in entries.items()} == {
            "chat": ["chat.completions", "responses"],
            "embeddings": ["embeddings"],
        }
        for entry in entries.values():
            assert entry["weights"].startswith("package:")
            assert len(entry["weights_sha256"]) == 64
        assert (tmp_path / "chat" / "examples" / "question.txt").is_file()


def changes_of(watch: FileWatch) -> list[Path]:
    """Return the changes after a second call, because the first one sees files being written."""
    assert watch.find_changes() == []
    return watch.find_changes()


class TestWatch:
    def test_each_change_is_reported_once(self, folder: Path) -> None:
        watch = FileWatch([folder / "models", folder / "models.toml"])
        code, added = folder / "models" / "brightness.py", folder / "models" / "labels.txt"
        for path, change in (
            (code, lambda: code.write_text("x = 1")),
            (added, added.touch),
            (added, added.unlink),
            (folder / "models.toml", lambda: (folder / "models.toml").write_text("")),
        ):
            change()
            assert changes_of(watch) == [path]
            watch.accept()
            assert watch.find_changes() == []

    def test_same_content_is_no_change(self, folder: Path) -> None:
        watch, code = FileWatch([folder / "models"]), folder / "models" / "brightness.py"
        good = code.read_bytes()
        code.write_bytes(b"")  # an editor truncates the file and then writes it
        assert watch.find_changes() == []
        code.write_bytes(good)
        os.utime(code, ns=(1, 1))
        assert changes_of(watch) == []

    def test_refused_change_is_reported_again(self, folder: Path) -> None:
        watch, code = FileWatch([folder / "models"]), folder / "models" / "brightness.py"
        good = code.read_text()
        code.write_text("no (")
        assert changes_of(watch) == [code]  # and not accepted
        (folder / "models" / "other.py").touch()
        assert changes_of(watch) == [code, folder / "models" / "other.py"]
        (folder / "models" / "other.py").unlink()
        code.write_text(good)
        assert changes_of(watch) == []

    def test_files_of_editors_are_ignored(self, folder: Path) -> None:
        watch = FileWatch([folder / "models"])
        for name in (".brightness.py.swp", "__pycache__/brightness.cpython-311.pyc", ".git/HEAD"):
            (folder / "models" / name).parent.mkdir(exist_ok=True)
            (folder / "models" / name).touch()
        assert changes_of(watch) == []

    def test_syntax_error_has_file_and_line(self, tmp_path: Path) -> None:
        code = tmp_path / "model.py"
        code.write_text("x = 1\nthis is no Python\n")
        assert find_code_error(code) == f"{code}, line 2: invalid syntax"
        code.write_text("x = 1\n")
        assert find_code_error(code) == ""


def package(folder: Path, target: Path) -> tuple[Path, Path]:
    return write_package(target, ROOT, find_model_folder(folder, ROOT, {}))


def deploy(folder: Path, project: Path) -> None:
    write_azd_project(project, ROOT, find_model_folder(folder, ROOT, {}))


class TestPackage:
    def test_package_has_catalogue_and_models(self, folder: Path, tmp_path: Path) -> None:
        (folder / "models" / "__pycache__").mkdir()
        app, worker = package(folder, tmp_path / "out")
        own = (folder / "models.toml").read_bytes()
        assert (app / "contract" / "models.toml").read_bytes() == own
        assert (worker / "functions" / "contract" / "models.toml").read_bytes() == own
        copied = {path.name for path in (worker / "models").iterdir()}
        assert copied == {"__init__.py", "brightness.py"}
        dockerfile = (worker / "Dockerfile").read_text("utf-8")
        assert "COPY models /app/models\n" in dockerfile
        assert "requirements.txt" not in dockerfile

    def test_requirements_are_installed_in_image(self, folder: Path, tmp_path: Path) -> None:
        (folder / "requirements.txt").write_text("einops\n", encoding="utf-8")
        _, worker = package(folder, tmp_path)
        assert (worker / "requirements.txt").read_text("utf-8") == "einops\n"
        dockerfile = (worker / "Dockerfile").read_text("utf-8")
        assert "-r /tmp/requirements.txt" in dockerfile
        assert dockerfile.rstrip().endswith("USER 10001:10001")

    def test_weights_are_installed_without_dependencies(self, tmp_path: Path) -> None:
        make_model_folder(tmp_path / "chat", ROOT, Example.CHAT)
        _, worker = package(tmp_path / "chat", tmp_path / "out")
        assert (worker / "requirements-no-deps.txt").is_file()
        dockerfile = (worker / "Dockerfile").read_text("utf-8")
        # `pip check` would miss what they require.
        *_, after_check = dockerfile.split("pip check")
        assert "--no-deps -r /tmp/requirements-no-deps.txt" in after_check
        deploy(tmp_path / "chat", tmp_path / "azure")
        ignored = (tmp_path / "azure" / ".dockerignore").read_text("utf-8")
        assert "!requirements-no-deps.txt\n" in ignored

    def test_repository_packages_shipped_models(self, tmp_path: Path) -> None:
        app, worker = package(ROOT, tmp_path)
        assert (app / "contract" / "models.toml").read_bytes() == SHIPPED.read_bytes()
        assert (worker / "Dockerfile").read_bytes() == (ROOT / "worker" / "Dockerfile").read_bytes()
        assert not (worker / "models").exists()

    def test_source_files_are_never_replaced(self) -> None:
        with pytest.raises(FolderUnusable, match="contains files that Loosely has not written"):
            package(ROOT, ROOT)
        assert SHIPPED.is_file()

    @pytest.mark.parametrize("is_version", [False, True])
    def test_model_outside_code_is_refused(
        self, folder: Path, tmp_path: Path, *, is_version: bool
    ) -> None:
        (folder / "other.py").touch()
        catalogue = folder / "models.toml"
        text = catalogue.read_text("utf-8")
        other = '\n[brightness."2"]\nimplementation = "other"\n'
        changed = text + other if is_version else text.replace("models.brightness", "other")
        catalogue.write_text(changed, "utf-8")
        with pytest.raises(FolderUnusable, match=r"brightness: the module other is not in"):
            package(folder, tmp_path)

    @pytest.mark.parametrize("path", ["models/net.bin", "nets/deep/net.bin"])
    def test_weights_are_copied_to_same_path(self, folder: Path, tmp_path: Path, path: str) -> None:
        add_weights(folder, path)
        _, worker = package(folder, tmp_path)
        dockerfile = (worker / "Dockerfile").read_text("utf-8")
        # What the Dockerfile copies to /app.
        copied = worker / path if path.startswith("models/") else worker / "weights" / path
        assert copied.read_bytes() == b"weights"
        assert ("COPY weights /app\n" in dockerfile) is not path.startswith("models/")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("digest", r"brightness.weights_sha256: .*nets/net.bin has the digest .*, not b{64}"),
            (
                "no digest",
                "brightness.weights_sha256: the key is missing, .*models lock brightness",
            ),
            ("file", r"brightness\.weights: there is no file .*nets/net\.bin"),
        ],
    )
    def test_missing_or_changed_weights_are_refused(
        self, folder: Path, tmp_path: Path, change: str, said: str
    ) -> None:
        add_weights(folder, "nets/net.bin")
        catalogue = folder / "models.toml"
        text = catalogue.read_text("utf-8")
        line = f'weights_sha256 = "{hashlib.sha256(b"weights").hexdigest()}"'
        if change == "file":
            (folder / "nets" / "net.bin").unlink()
        elif change == "digest":
            catalogue.write_text(text.replace(line, f'weights_sha256 = "{"b" * 64}"'), "utf-8")
        else:
            catalogue.write_text(text.replace(line, ""), "utf-8")
        with pytest.raises(FolderUnusable, match=said):
            package(folder, tmp_path)
        assert not (tmp_path / "functions").exists()


def add_weights(folder: Path, path: str) -> None:
    """Write a file with weights into a model folder, and name it in the folder's catalogue."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with (folder / "models.toml").open("a", encoding="utf-8") as catalogue:
        catalogue.write(f'weights = "file:{path}"\nweights_sha256 = "{digest}"\n')


class TestAzdProject:
    def test_project_has_all_named_files(self, folder: Path, tmp_path: Path) -> None:
        (folder / "requirements.txt").write_text("einops\n", encoding="utf-8")
        project = tmp_path / "azure"
        deploy(folder, project)
        dockerfile = (project / "worker" / "Dockerfile").read_text("utf-8")
        copied = re.findall(r"^COPY ((?!--from).*) \S+$", dockerfile, re.MULTILINE)
        assert "models" in copied
        ignored = (project / ".dockerignore").read_text("utf-8").splitlines()
        for source in " ".join(copied).split():
            assert (project / source).exists(), source
            assert any(source.startswith(line[1:]) for line in ignored if line[0] == "!"), source
        described = yaml.safe_load((project / "azure.yaml").read_text("utf-8"))
        assert (project / described["services"]["gateway"]["project"] / "host.json").is_file()
        for hook in described["hooks"].values():
            assert os.access(project / hook["run"], os.X_OK)
        own = (folder / "models.toml").read_bytes()
        assert (project / "functions" / "contract" / "models.toml").read_bytes() == own

    def test_weights_are_copied_into_image(self, folder: Path, tmp_path: Path) -> None:
        add_weights(folder, "nets/net.bin")
        project = tmp_path / "azure"
        deploy(folder, project)
        assert (project / "weights" / "nets" / "net.bin").read_bytes() == b"weights"
        dockerfile = (project / "worker" / "Dockerfile").read_text("utf-8")
        assert "COPY weights /app\n" in dockerfile
        assert "!weights\n" in (project / ".dockerignore").read_text("utf-8")
        (folder / "nets" / "net.bin").write_bytes(b"other")
        with pytest.raises(FolderUnusable, match="has the digest"):
            deploy(folder, project)
        assert (project / "weights").is_dir()

    def test_second_write_keeps_azd_environment(self, folder: Path, tmp_path: Path) -> None:
        project = tmp_path / "azure"
        deploy(folder, project)
        (project / ".azure").mkdir()
        (project / ".azure" / "config.json").touch()
        (project / "models" / "old.py").touch()
        (project / "requirements.txt").touch()
        deploy(folder, project)
        assert (project / ".azure" / "config.json").is_file()
        assert not (project / "models" / "old.py").exists()
        assert not (project / "requirements.txt").exists()

    @pytest.mark.parametrize(
        "existing", ["models/thesis.txt", "azure.yaml", "requirements.txt", ".dockerignore"]
    )
    def test_foreign_files_are_never_replaced(
        self, folder: Path, tmp_path: Path, existing: str
    ) -> None:
        # The second file describes another azd project.
        other = tmp_path / "azure" / existing
        other.parent.mkdir(parents=True)
        other.write_text("name: other\n", encoding="utf-8")
        with pytest.raises(FolderUnusable, match="`loosely deploy` has not written"):
            deploy(folder, tmp_path / "azure")
        assert other.read_text("utf-8") == "name: other\n"


class TestRequirements:
    def test_missing_package_names_extra(self) -> None:
        check_requirements()
        said = r"package absent is not installed: .* 'loosely\[local\]'"
        with pytest.raises(ExtraMissing, match=said):
            check_requirements(("fastapi", "absent"))

    def test_extra_gateway_equals_requirements(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = (ROOT / "functions" / "requirements.in").read_text(encoding="utf-8").splitlines()
        required = [line for line in lines if not line.startswith("#")]
        assert project["optional-dependencies"]["gateway"] == required
